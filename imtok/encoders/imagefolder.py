"""The encoder of ImageFolder (arXiv 2410.01756), XQ-GAN (2412.01762) and RobustTok (2503.08354), from DINOv2 on."""

from collections.abc import Sequence
from typing import Unpack

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.encoders.base import ImageEncoder
from imtok.nn.grid import grid_size, to_sequence
from imtok.nn.initialization import start_weights
from imtok.nn.positions import GridPositions
from imtok.nn.vit_part import LearningSettings, PretrainedViT
from imtok.nn.vit_resize import resize_positions, squarest
from imtok.pixels import to_range
from imtok.pretrained import RANDOM


class ImageFolderEncoder(PretrainedViT, ImageEncoder):
    """Latent tokens behind the patches of a published vision transformer, whose blocks let them read the image.

    A sequence of latent tokens for each branch of a product quantizer has the positions of the patches, resized to the
    squarest grid of as many, and a learned level. The latents of all branches stand side by side in channels.

    Args:
        out_dim: Width of the latents; the builder sets it to the quantizer's.
        image_size: Side of the images that the positions are for, in pixels; the builder sets it.
        weights: What the net begins with (:meth:`imtok.nn.vit_part.PretrainedViT.take_net`).
        latents: Number of latent tokens, in each branch.
        branches: Sequences of latent tokens; each fills as many channels of ``out_dim``, the first the first.
        patch_size: Side of a patch, in pixels. A file's patches of another side are resized.
        width: Width of the tokens.
        depth: Number of blocks.
        value_range: Of the pixels that the net computes with.
        **net: What of the net learns, and its blocks (there).

    Raises:
        ValueError: If ``out_dim`` is no multiple of ``branches``, another argument is out of range, or the image size
            is no multiple of ``patch_size``.

    Example:
        >>> encoder = ImageFolderEncoder(12, image_size=64, latents=9, width=32, depth=1, heads=2)
        >>> encoder(torch.rand(1, 3, 64, 64) * 2 - 1).values.shape
        torch.Size([1, 9, 12])
    """

    def __init__(
        self,
        out_dim: int,
        image_size: int,
        weights: str | None = RANDOM,
        latents: int = 121,
        branches: int = 2,
        patch_size: int = 16,
        width: int = 768,
        depth: int = 12,
        value_range: Sequence[float] = (-1.0, 1.0),
        **net: Unpack[LearningSettings],
    ) -> None:
        super().__init__()
        if branches < 1 or out_dim % branches:
            raise ValueError(f"branches must be a divisor of the latents' width {out_dim}, got {branches}")
        if latents < 1:
            raise ValueError(f"latents must be at least 1, got {latents}")
        self.patch_size, self.branches = patch_size, branches
        self.value_range = (value_range[0], value_range[1])
        self.latents = nn.Parameter(torch.randn(branches * latents, width) * 1e-6)
        self.levels = nn.Parameter(torch.randn(1 + branches, width) * 0.02)
        self.take_net(weights, grid_size((image_size, image_size), patch_size), patch_size, width, depth, **net)
        self.project = nn.Linear(width, out_dim // branches)
        start_weights(self.project, self.net.start)

    @override
    def encode(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        grid = grid_size((image.shape[-2], image.shape[-1]), self.patch_size)
        positions = self.net.positions
        assert isinstance(positions, GridPositions)
        patches = to_sequence(self.net.patches(to_range(image, self.value_range))) + positions(grid)
        seen = torch.cat([*self.net.first(patches), patches], 1) + self.levels[0]
        count = len(self.latents) // self.branches
        places = resize_positions(positions.table, squarest(count)).repeat(self.branches, 1)
        latents = self.latents + places + repeat(self.levels[1:], "k d -> (k n) d", n=count)
        read = self.net.blocks([seen, latents.to(seen.dtype).expand(image.shape[0], -1, -1)], grid)
        return rearrange(self.project(read[:, -len(latents) :]), "b (k n) d -> b n (k d)", k=self.branches)

    @override
    def num_latents(self, size: tuple[int, int]) -> int:
        grid_size(size, self.patch_size)
        return len(self.latents) // self.branches
