"""MGVQ's decoder (arXiv 2507.07997), that of DC-AE (arXiv 2410.10733) behind a convolution by groups of channels."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import cast

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from imtok.decoders.base import WholeDecoder
from imtok.nn.dc_ae import check_groups, check_levels, level
from imtok.nn.grid import to_map
from imtok.nn.norms import ChannelRMSNorm
from imtok.nn.shuffled_resampling import ShuffledDoubling, check_share, repeated


class MGVQDecoder(WholeDecoder):
    """Linear attention at the lowest resolutions and convolutions with batch norm above, up to half resolution.

    The last convolution writes four pixels for each position.

    Args:
        in_dim: Width of the latents; the builder sets it to the quantizer's.
        channels: Channels at half resolution.
        multipliers: Channels of each level as a multiple of ``channels``, half resolution first, as in the encoder.
        depths: Blocks of each level, in the same order.
        transformers: How many of the lowest levels have linear attention.
        latent_width: Channels that the first convolution writes, group by group.
        groups: Groups of that convolution; as many of them as divide ``in_dim`` remain.
        head_width: Channels of a head of attention.
        image_channels: Channels of the images: 1, 3 or 4; the builder sets it.

    Raises:
        ValueError: If the channels do not fit each other; in ``forward``, if the latents do not fill an image of that
            size, or some were not kept.

    Example:
        >>> import torch
        >>> decoder = MGVQDecoder(32, channels=32, multipliers=(1, 2), depths=(1, 1), transformers=1)
        >>> decoder(torch.randn(1, 32, 32), size=(16, 32)).shape
        torch.Size([1, 3, 16, 32])
    """

    def __init__(
        self,
        in_dim: int,
        channels: int = 256,
        multipliers: Sequence[int] = (1, 2, 2, 4),
        depths: Sequence[int] = (5, 10, 2, 2),
        transformers: int = 2,
        latent_width: int = 32,
        groups: int = 4,
        head_width: int = 32,
        image_channels: int = 3,
    ) -> None:
        super().__init__()
        check_levels(len(multipliers), len(depths), transformers)
        widths = [channels * multiplier for multiplier in reversed(multipliers)]
        check_groups(groups, latent_width)
        check_share(widths[0], latent_width)
        self.factor = 2 ** len(widths)
        self.project = nn.Conv2d(in_dim, latent_width, 1, groups=math.gcd(groups, in_dim))
        self.conv_in = nn.Conv2d(latent_width, widths[0], 3, padding=1)
        self.levels = nn.ModuleList(
            level("transformer" if index < transformers else "batch", width, depth, head_width)
            for index, (width, depth) in enumerate(zip(widths, reversed(depths), strict=True))
        )
        self.upsamplers = nn.ModuleList(ShuffledDoubling(*pair) for pair in pairwise(widths))
        self.norm_out = ChannelRMSNorm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], 4 * image_channels, 3, padding=1)

    @property
    @override
    def last_layer(self) -> nn.Parameter:
        return cast(nn.Parameter, self.conv_out.weight)

    @override
    def decode(self, latents: Float[Tensor, "b n d"], size: tuple[int, int]) -> Float[Tensor, "b c h w"]:
        mapped = self.project(to_map(latents, size, self.factor))
        features = self.levels[0](self.conv_in(mapped) + repeated(mapped, self.conv_in.out_channels))
        for double, blocks in zip(self.upsamplers, self.levels[1:], strict=True):
            features = blocks(double(features))
        return F.pixel_shuffle(self.conv_out(F.relu(self.norm_out(features))), 2)
