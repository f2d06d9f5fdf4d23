"""Frozen features of DINOv2 (arXiv 2304.07193), with registers (arXiv 2309.16588) or without."""

from pathlib import Path

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from imtok.nn.grid import to_sequence
from imtok.nn.transformer import BlockStyle, Transformer
from imtok.nn.vit import ViT
from imtok.nn.vit_files import VitFile
from imtok.nn.vit_rows import patch_positions
from imtok.pretrained import RANDOM
from imtok.spaces.base import Space

PATCH = 14  # pixels
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels in [0, 1]


class DINOv2(Space):
    """The vision transformer of DINOv2, read from its published file. It has a way into features, and none back.

    Images of any size are resized to ``side`` first. What scales the residuals (LayerScale) is folded into the weights
    when they are read.

    Args:
        weights: Path of a published ``.pth`` file (dl.fbaipublicfiles.com/dinov2), of timm's copy or of that of
            transformers, or "random".
        width: Width of the features: 384, 768, 1024 or 1536.
        depth: Number of blocks: 12, 12, 24 or 40.
        heads: Attention heads: 6, 12, 16 or 24.
        registers: Register tokens: 4 in the files named ``reg4``, else 0.
        side: Side to which images are resized, in pixels, a multiple of 14.
        cache: See :class:`~imtok.spaces.base.Space`.

    Raises:
        ValueError: If ``side`` is no multiple of 14.

    Example:
        >>> space = DINOv2(width=32, depth=1, heads=2, side=28)
        >>> space.tokens(torch.rand(1, 3, 64, 64) * 2 - 1).shape
        torch.Size([1, 5, 32])
    """

    factor = PATCH
    decodes = False

    def __init__(
        self,
        weights: str | None = RANDOM,
        width: int = 1024,
        depth: int = 24,
        heads: int = 16,
        registers: int = 4,
        side: int = 224,
        cache: str | None = None,
    ) -> None:
        super().__init__(weights, cache)
        if side < PATCH or side % PATCH:
            raise ValueError(f"side must be a positive multiple of {PATCH}, got {side}")
        self.dim = width
        self.heads = heads
        self.side = side
        self.patches = nn.Conv2d(3, width, PATCH, stride=PATCH)
        self.class_token = nn.Parameter(torch.randn(1, width) * 0.02)
        self.registers = nn.Parameter(torch.randn(registers, width) * 0.02)
        self.positions = nn.Parameter(torch.randn((side // PATCH) ** 2, width) * 0.02)
        self.trunk = Transformer(width, depth, heads, BlockStyle(eps=1e-6))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    @override
    def map_size(self, size: tuple[int, int]) -> tuple[int, int]:
        return self.side // PATCH, self.side // PATCH

    def tokens(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        """Normed features of images in ``[-1, 1]``: the class token, then the patches row by row."""
        pixels = resize(image, self.side).clamp(-1, 1)
        mean, std = (rearrange(pixels.new_tensor(values), "c -> c 1 1") for values in (MEAN, STD))
        patches = to_sequence(self.patches(((pixels + 1) / 2 - mean) / std)) + self.positions
        first = repeat(torch.cat([self.class_token, self.registers]), "n d -> b n d", b=image.shape[0])
        features = self.norm(self.trunk(torch.cat([first, patches], 1)))
        return torch.cat([features[:, :1], features[:, first.shape[1] :]], 1)

    @override
    def encode(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d h2 w2"]:
        return self._as_maps(self.tokens(image))

    @override
    def maps(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d h2 w2"]:
        return self._as_maps(self.remembered(image))

    @override
    def computed(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b ..."]:
        return self.tokens(image)

    def _as_maps(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b d h2 w2"]:
        return rearrange(tokens[:, 1:], "b (h w) d -> b d h w", h=self.side // PATCH)

    @override
    def decode(self, features: Float[Tensor, "b d h2 w2"]) -> Float[Tensor, "b 3 h w"]:
        raise ValueError("a space to decode from must be an autoencoder, got DINOv2, which has features only")

    @override
    def read_weights(self, path: Path) -> None:
        """Fill the parameters; class token and its position are one here, and scales of residuals are none.

        Raises:
            InputError: As of :func:`imtok.nn.vit_files.read_vit`.
        """
        grid, depth = (self.side // PATCH, self.side // PATCH), len(self.trunk.blocks)
        style = BlockStyle(eps=1e-6, layer_scale=1.0)
        with torch.device("meta"):
            net = ViT(grid, PATCH, self.dim, depth, self.heads, registers=len(self.registers), style=style)
        file = VitFile(path)
        found = file.weights(net)
        found["class_token"] = found["class_token"] + found.pop("class_position")
        del found["positions.table"]  # each published model resizes them in its own way
        found["positions"] = self._resize_positions(patch_positions(file.parts(net)["positions"])[None])
        for block in range(depth):
            for scale, part in (("scale1", "attention.project"), ("scale2", "mlp.2")):
                gamma = found.pop(f"trunk.blocks.{block}.{scale}.scale")
                found[f"trunk.blocks.{block}.{part}.weight"] = (
                    found[f"trunk.blocks.{block}.{part}.weight"] * gamma[:, None]
                )
                found[f"trunk.blocks.{block}.{part}.bias"] = found[f"trunk.blocks.{block}.{part}.bias"] * gamma
        if not len(self.registers):
            found["registers"] = self.registers.detach()
        self.load_state_dict(found)

    def _resize_positions(self, table: Float[Tensor, "1 n d"]) -> Float[Tensor, "m d"]:
        """Positions of the trained grid as those of ours, as each published model does it."""
        trained, ours = int(table.shape[1] ** 0.5), self.side // PATCH
        square = rearrange(table, "1 (h w) d -> 1 d h w", h=trained)
        if len(self.registers):
            square = F.interpolate(square, size=(ours, ours), mode="bicubic", antialias=True)
        elif ours != trained:  # models without registers stretch by a tenth of a position more
            square = F.interpolate(square, scale_factor=((ours + 0.1) / trained,) * 2, mode="bicubic")
        return rearrange(square, "1 d h w -> (h w) d")


def resize(image: Float[Tensor, "b 3 h w"], side: int) -> Float[Tensor, "b 3 side side"]:
    """Resize to ``side`` pixels in height and width, as Hita does: blurred where it shrinks, bicubic, corners aligned.

    Args:
        image: The images.
        side: New side, in pixels.
    """
    for axis, length in ((-2, image.shape[-2]), (-1, image.shape[-1])):
        if length > side:
            image = _blur(image, (length / side - 1) / 2, axis)
    return F.interpolate(image, size=(side, side), mode="bicubic", align_corners=True)


def _blur(image: Float[Tensor, "b 3 h w"], deviation: float, axis: int) -> Float[Tensor, "b 3 h w"]:
    """Convolve with a Gaussian of two deviations to each side, at least one pixel, along one axis."""
    taps = int(max(4 * deviation, 3)) | 1
    offsets = torch.arange(taps, device=image.device, dtype=image.dtype) - taps // 2
    kernel = torch.exp(-(offsets**2) / (2 * deviation**2))
    moved = rearrange(image.movedim(axis, -1), "b c n m -> (b c) n m")
    padded = F.pad(moved, (taps // 2, taps // 2), mode="reflect")
    blurred = F.conv2d(padded[:, None], (kernel / kernel.sum())[None, None, None])[:, 0]
    return rearrange(blurred, "(b c) n m -> b c n m", b=image.shape[0]).movedim(-1, axis)
