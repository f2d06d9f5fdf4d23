"""An encoder that begins as DINOv2, DINOv3, CLIP, SigLIP2, MAE or EVA-02: a latent per patch of their features."""

from collections.abc import Sequence
from typing import Unpack

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from imtok.encoders.base import GridEncoder
from imtok.nn.grid import grid_size
from imtok.nn.vit_part import PretrainedViT, PretrainedViTSettings
from imtok.pretrained import RANDOM


class PretrainedViTEncoder(PretrainedViT, GridEncoder):
    """A published vision transformer, and a linear map from its features to latents.

    The net is saved with the tokenizer, and what it began with is not: a stored tokenizer needs no other file.

    Args:
        out_dim: Width of the latents; the builder sets it to the quantizer's. The linear map is left out where it is
            the width of the features. None = the features as they are.
        image_size: Side of the images that the positions are for, in pixels; the builder sets it.
        weights: What the net begins with (:meth:`imtok.nn.vit_part.PretrainedViT.take_net`).
        patch_size: Side of a patch, in pixels that the net sees. A file's patches of another side are resized.
        factor: Pixels of the image per latent, along each side. Images are resized so that a patch has so many.
        width: Width of the tokens.
        depth: Number of blocks.
        layers: Blocks whose outputs the latents are made of, side by side in channels, from 0, or from -1 backwards;
            () = the last one, normed. What lies behind the deepest one is left out.
        mean: Of each channel of the pixels that the net was trained on, where black is 0 and white is 1.
        deviation: Standard deviation of the same.
        norm_last: Norm the deepest of ``layers`` by the norm at the net's end, whichever block that is (VFMTok, DiGIT).
        **net: What of the net learns, and what it is made of (there).

    Raises:
        ValueError: If an argument has no such choice or is out of range, or the image size is no multiple of
            ``factor``; in ``forward`` and ``num_latents``, for such an image.

    Example:
        >>> encoder = PretrainedViTEncoder(6, image_size=64, patch_size=14, factor=16, width=32, depth=2, heads=2)
        >>> encoder(torch.rand(1, 3, 64, 64) * 2 - 1).values.shape
        torch.Size([1, 16, 6])
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        out_dim: int | None,
        image_size: int,
        weights: str | None = RANDOM,
        patch_size: int = 14,
        factor: int = 16,
        width: int = 768,
        depth: int = 12,
        layers: Sequence[int] = (),
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        deviation: Sequence[float] = (0.229, 0.224, 0.225),
        norm_last: bool = False,
        **net: Unpack[PretrainedViTSettings],
    ) -> None:
        super().__init__()
        if wrong := [layer for layer in layers if not -depth <= layer < depth]:
            raise ValueError(f"layers must lie in [{-depth}, {depth - 1}], the blocks of the net, got {wrong[0]}")
        read = [layer % depth for layer in layers]
        self.factor, self.norm_last = factor, norm_last
        grid = grid_size((image_size, image_size), factor)
        deepest = max(read, default=depth - 1) + 1
        self.take_net(weights, grid, patch_size, width, deepest, read, norm_out=norm_last or not layers, **net)
        dim = width * max(len(layers), 1)
        self.project = nn.Identity() if out_dim in (None, dim) else nn.Linear(dim, out_dim)
        for name, values in (("mean", mean), ("deviation", deviation)):
            self.register_buffer(name, torch.tensor(list(values)).view(3, 1, 1), persistent=False)

    @override
    def encode(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        tokens = self.net((self._resized(image) / 2 + 0.5 - self.mean) / self.deviation, self.layers, self.norm_last)
        return self.project(tokens[:, self.net.prefix :])

    def _resized(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h2 w2"]:
        """Images with as many pixels as the net has patches for; the filter's overshoot is cut off."""
        rows, columns = grid_size((image.shape[-2], image.shape[-1]), self.factor)
        side = self.net.patch_size
        if side == self.factor:
            return image
        size = (rows * side, columns * side)
        return F.interpolate(image, size, mode="bicubic", align_corners=False, antialias=True).clamp(-1, 1)
