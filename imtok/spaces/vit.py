"""Frozen features of a published vision transformer of any shape that :class:`imtok.nn.vit.ViT` has."""

from collections.abc import Sequence
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from imtok.nn.transformer import BlockStyle
from imtok.nn.vit import ViT
from imtok.nn.vit_files import read_vit
from imtok.nn.vit_weights import FILES
from imtok.pretrained import RANDOM
from imtok.spaces.base import Space
from imtok.spaces.dino import resize


class ViTFeatures(Space):
    """What the first blocks of a net make of the patches of an image, normed without a learned scale.

    It has a way into features, and none back. Images of any size are resized to ``side`` first.

    Args:
        weights: Path of a file as timm, transformers or the authors write it, or of the folder that holds it, or
            "random". Blocks behind the first ``depth`` and a norm at the end are not read.
        patch_size: Side of a patch, in pixels.
        width: Width of the features.
        depth: Number of blocks that are read.
        heads: Attention heads of each.
        registers: Register tokens.
        norm_in: Norm the tokens before the first block (CLIP).
        style: Of the blocks; None = that of ViT.
        side: Side to which images are resized, in pixels, a multiple of ``patch_size``.
        mean: Of each channel of the pixels that the net was trained on, where black is 0 and white is 1.
        deviation: Standard deviation of the same.
        cache: See :class:`~imtok.spaces.base.Space`.

    Raises:
        ValueError: If ``side`` is no multiple of ``patch_size``.

    Example:
        >>> space = ViTFeatures(patch_size=14, width=32, depth=1, heads=2, side=28)
        >>> space.maps(torch.rand(1, 3, 64, 64) * 2 - 1).shape
        torch.Size([1, 32, 2, 2])
    """

    decodes = False
    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        weights: str | None = RANDOM,
        patch_size: int = 14,
        width: int = 1408,
        depth: int = 39,
        heads: int = 16,
        registers: int = 0,
        norm_in: bool = False,
        style: BlockStyle | None = None,
        side: int = 224,
        mean: Sequence[float] = (0.48145466, 0.4578275, 0.40821073),
        deviation: Sequence[float] = (0.26862954, 0.26130258, 0.27577711),
        cache: str | None = None,
    ) -> None:
        super().__init__(weights, cache)
        if side < patch_size or side % patch_size:
            raise ValueError(f"side must be a positive multiple of {patch_size}, got {side}")
        self.dim, self.factor, self.side = width, patch_size, side
        self.heads, self.blocks = heads, repr(style)  # a cache of maps has to be of the same
        for name, values in (("mean", mean), ("deviation", deviation)):
            self.register_buffer(name, rearrange(torch.tensor(list(values)), "c -> c 1 1"))
        self.net = ViT(
            (side // patch_size, side // patch_size),
            patch_size,
            width,
            depth,
            heads,
            registers=registers,
            norm_in=norm_in,
            norm_out=False,
            style=style,
        )

    @override
    def map_size(self, size: tuple[int, int]) -> tuple[int, int]:
        return self.side // self.factor, self.side // self.factor

    @override
    def encode(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d h2 w2"]:
        pixels = resize(image, self.side).clamp(-1, 1)
        patches = self.net(((pixels + 1) / 2 - self.mean) / self.deviation)[:, self.net.prefix :]
        normed = F.layer_norm(patches, patches.shape[-1:], eps=1e-6)
        return rearrange(normed, "b (h w) d -> b d h w", h=self.side // self.factor)

    @override
    def decode(self, features: Float[Tensor, "b d h2 w2"]) -> Float[Tensor, "b 3 h w"]:
        raise ValueError(
            "a space to decode from must be an autoencoder, got a vision transformer, which has features only"
        )

    @override
    def find_weights(self) -> Path | None:
        folder = Path(str(self.weights)).expanduser()
        if folder.is_dir():
            return next((folder / name for name in FILES if (folder / name).is_file()), None)
        return super().find_weights()

    @override
    def read_weights(self, path: Path) -> None:
        read_vit(self.net, path, beyond=True)
