"""The encoder of CAT (arXiv 2501.03120): one convolutional net, read at 8, 16 or 32 pixels per latent."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from imtok.encoders.base import Encoder
from imtok.nn.complexity import complexity
from imtok.nn.convolution import Attention, ConvolutionStack, Layer, activated_norm, level_layers
from imtok.nn.grid import grid_size, to_sequence
from imtok.nn.resampling import Downsampling, downsampler
from imtok.types import Condition, Latents


class CATEncoder(Encoder):
    """One net reads a simple image as a coarse map, and a complex image as a fine map.

    The middle layers and the layers that write the latents are the same at each resolution. A coarse map fills the
    first latents of the sequence, and the others are not kept, so the number of latents tells the map.

    The score of complexity is ``condition.quality``, which comes from the data. Without it, or if it is NaN, it is
    :func:`imtok.nn.complexity.complexity`.

    Args:
        out_dim: Width of the latents; the builder sets it to the quantizer's.
        channels: Channels at full resolution.
        multipliers: Channels of each level as a multiple of ``channels``, full resolution first; they must be
            equal from ``finest`` on.
        finest: The first level that is read: 3 = 8 x 8 pixels per latent.
        blocks: Residual blocks per level.
        attention: "lowest" = at the lowest resolution every residual block is followed by attention; "none".
        middle: Layers before the latents, at each resolution that is read.
        downsample: How the resolution is halved (``imtok.nn.resampling``).
        bias: Whether the first convolution and those of the residual blocks have a bias.
        thresholds: Ascending scores, one fewer than maps. A score below the first reads the coarsest map, a score
            below the second reads the next map, and so on. A score at or above the last reads the finest map.
        given_thresholds: The same limits for the scores of ``condition.quality``.
        image_channels: Channels of the images: 1, 3 or 4; the builder sets it.

    Raises:
        ValueError: If an argument is not one of its choices; in ``forward`` and ``num_latents``, if the sides of the
            image are not multiples of the coarsest map's pixels per latent, or no map has ``length`` latents.

    Example:
        >>> maps = {"channels": 32, "multipliers": (1, 1, 1), "finest": 1}
        >>> encoder = CATEncoder(8, **maps, thresholds=[0.5], given_thresholds=[5.0])
        >>> image = torch.stack([torch.zeros(3, 16, 16), torch.rand(3, 16, 16) * 2 - 1])
        >>> encoder(image).keep.sum(1)
        tensor([16, 64])
    """

    takes = ("quality",)
    budgeted = True

    def __init__(
        self,
        out_dim: int,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 4, 4, 4),
        finest: int = 3,
        blocks: int = 2,
        attention: Attention = "lowest",
        middle: Sequence[Layer] = ("residual", "attention", "residual"),
        downsample: Downsampling = "padded_end",
        bias: bool = True,
        thresholds: Sequence[float] = (0.25, 0.5),
        given_thresholds: Sequence[float] = (4.0, 7.0),
        image_channels: int = 3,
    ) -> None:
        super().__init__()
        check_maps(multipliers, finest)
        for name, values in (("thresholds", thresholds), ("given_thresholds", given_thresholds)):
            if len(values) != len(multipliers) - finest - 1 or list(values) != sorted(values):
                raise ValueError(
                    f"{name} must be {len(multipliers) - finest - 1} ascending scores, one fewer than maps, got "
                    f"{list(values)}"
                )
        self.factors = tuple(2**level for level in range(finest, len(multipliers)))
        self.thresholds, self.given_thresholds = tuple(thresholds), tuple(given_thresholds)
        widths = [channels * multiplier for multiplier in multipliers]
        self.conv_in = nn.Conv2d(image_channels, channels, 3, padding=1, bias=bias)
        stacks = [
            ConvolutionStack(layers, before, after, bias)
            for layers, (before, after) in zip(
                level_layers(len(widths), blocks, attention), pairwise([channels, *widths]), strict=True
            )
        ]
        halvings = [nn.Identity(), *(downsampler(downsample, width) for width in widths[:-1])]
        levels = [nn.Sequential(halve, stack) for halve, stack in zip(halvings, stacks, strict=True)]
        self.levels = nn.Sequential(*levels[: finest + 1])
        self.coarser = nn.ModuleList(levels[finest + 1 :])
        self.middle = ConvolutionStack(middle, widths[-1], widths[-1], bias)
        self.norm_out = activated_norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], out_dim, 3, padding=1)

    @override
    def forward(
        self, image: Float[Tensor, "b c h w"], length: int | None = None, condition: Condition | None = None
    ) -> Latents:
        counts = self.counts((image.shape[-2], image.shape[-1]))
        if length is not None and length not in counts:
            raise ValueError(f"length must be one of {', '.join(map(str, counts))} latents, got {length}")
        features = self.levels(self.conv_in(image))
        maps = [features]
        for level in self.coarser:
            maps.append(level(maps[-1]))
        latents = [to_sequence(self.conv_out(self.norm_out(self.middle(one)))) for one in maps]
        if length is not None:
            return Latents(latents[counts.index(length)])
        chosen = self.level(image, condition)
        values = torch.zeros_like(latents[0])
        for place, own in enumerate(latents):  # all of them, so that every process of a run has gradients for all
            padded = F.pad(own, (0, 0, 0, counts[0] - own.shape[1]))
            values = torch.where((chosen == place)[:, None, None], padded, values)
        kept = torch.tensor(counts, device=image.device)[chosen]
        return Latents(values, torch.arange(counts[0], device=image.device) < kept[:, None])

    def level(self, image: Float[Tensor, "b c h w"], condition: Condition | None = None) -> Int64[Tensor, " b"]:
        """The number of the map that each image gets; 0 = the finest."""
        own = (complexity(image)[:, None] < torch.tensor(self.thresholds, device=image.device)).sum(1)
        if condition is None or condition.quality is None:
            return own
        given = condition.quality.to(image.device)
        below = (given[:, None] < torch.tensor(self.given_thresholds, device=image.device)).sum(1)
        return torch.where(given.isnan(), own, below)

    def counts(self, size: tuple[int, int]) -> tuple[int, ...]:
        """Number of latents of each map, the finest first."""
        return map_counts(size, self.factors)

    @override
    def num_latents(self, size: tuple[int, int]) -> int:
        return self.counts(size)[0]


def map_counts(size: tuple[int, int], factors: Sequence[int]) -> tuple[int, ...]:
    """Latents of each map of an image, the finest first; ValueError if it is no multiple of the coarsest factor."""
    grid_size(size, factors[-1])
    return tuple(size[0] // factor * (size[1] // factor) for factor in factors)


def check_maps(multipliers: Sequence[int], finest: int) -> None:
    """Raise ValueError unless there are two maps or more, of equal channels."""
    if not 0 < finest < len(multipliers) - 1 or len(set(multipliers[finest:])) > 1:
        raise ValueError(
            "multipliers from level finest on must be two or more and equal, since the maps share their middle, got "
            f"{list(multipliers)} and finest {finest}"
        )
