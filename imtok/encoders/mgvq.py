"""MGVQ's encoder (arXiv 2507.07997), that of DC-AE (arXiv 2410.10733) with a convolution by groups of channels."""

import math
from collections.abc import Sequence
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.encoders.base import GridEncoder
from imtok.nn.dc_ae import check_groups, check_levels, level
from imtok.nn.grid import to_sequence
from imtok.nn.shuffled_resampling import ShuffledHalving, averaged, check_share


class MGVQEncoder(GridEncoder):
    """Convolutions at high resolution and linear attention at the lowest, between shortcuts without parameters.

    The image is halved at once; there are no blocks at full resolution. At the end a 1 x 1 convolution maps each group
    of channels by itself, so that each sub-codebook has its own.

    Args:
        out_dim: Width of the latents; the builder sets it to the quantizer's.
        channels: Channels at half resolution.
        multipliers: Channels of each level as a multiple of ``channels``, half resolution first.
        depths: Blocks of each level.
        transformers: How many of the lowest levels have linear attention.
        latent_width: Channels of the map that the groups are taken from.
        groups: Groups of the last convolution; as many of them as divide ``out_dim`` remain.
        head_width: Channels of a head of attention.
        image_channels: Channels of the images: 1, 3 or 4; the builder sets it.

    Raises:
        ValueError: If the channels do not fit each other; in ``forward`` and ``num_latents``, if the image is no
            multiple of the pixels per latent.

    Example:
        >>> import torch
        >>> encoder = MGVQEncoder(32, channels=32, multipliers=(1, 2), depths=(1, 1), transformers=1)
        >>> encoder(torch.rand(1, 3, 16, 32) * 2 - 1).values.shape
        torch.Size([1, 32, 32])
    """

    def __init__(
        self,
        out_dim: int,
        channels: int = 256,
        multipliers: Sequence[int] = (1, 2, 2, 4),
        depths: Sequence[int] = (4, 8, 2, 2),
        transformers: int = 2,
        latent_width: int = 32,
        groups: int = 4,
        head_width: int = 32,
        image_channels: int = 3,
    ) -> None:
        super().__init__()
        check_levels(len(multipliers), len(depths), transformers)
        widths = [channels * multiplier for multiplier in multipliers]
        if channels % 4:
            raise ValueError(f"channels must be a multiple of 4, got {channels}")
        check_groups(groups, latent_width)
        check_share(widths[-1], latent_width)
        kept = math.gcd(groups, out_dim)
        self.factor = 2 ** len(widths)
        self.latent_width = latent_width
        self.conv_in = nn.Conv2d(image_channels, widths[0] // 4, 3, padding=1)
        self.halve = nn.PixelUnshuffle(2)
        first = len(widths) - transformers
        self.levels = nn.ModuleList(
            level("transformer" if index >= first else "rms", width, depth, head_width)
            for index, (width, depth) in enumerate(zip(widths, depths, strict=True))
        )
        self.downsamplers = nn.ModuleList(ShuffledHalving(*pair) for pair in pairwise(widths))
        self.conv_out = nn.Conv2d(widths[-1], latent_width, 3, padding=1)
        self.project = nn.Conv2d(latent_width, out_dim, 1, groups=kept)

    @override
    def encode(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
        features = self.levels[0](self.halve(self.conv_in(image)))
        for halve, blocks in zip(self.downsamplers, self.levels[1:], strict=True):
            features = blocks(halve(features))
        mapped = self.conv_out(features) + averaged(features, self.latent_width)
        return to_sequence(self.project(mapped))
