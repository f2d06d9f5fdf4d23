"""Blocks of convolutions that are wide inside (arXiv 1801.04381), as ViTamin has them (arXiv 2404.02132)."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, get_args

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint as computed_again
from typing_extensions import override

from imtok.nn.dc_ae import Level
from imtok.nn.norms import ChannelLayerNorm
from imtok.nn.resampling import NearestUpsample

Resample = Literal["none", "halve", "double"]


class InvertedBottleneck(nn.Module):
    """A norm, a 1 x 1 convolution to more channels, 3 x 3 of each alone, and 1 x 1 back, added to a shortcut.

    GELU follows the first and the second convolution.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        resample: "none"; "halve" = the middle convolution has stride 2, and the shortcut is a mean of 3 x 3 positions;
            "double" = inside as in the shortcut, positions are repeated before a 3 x 3 convolution (UniTok).
        expansion: Channels inside as a multiple of ``out_channels``.

    Raises:
        ValueError: If there is no such ``resample``.

    Example:
        >>> import torch
        >>> InvertedBottleneck(8, 16, "halve")(torch.randn(1, 8, 4, 6)).shape
        torch.Size([1, 16, 2, 3])
    """

    def __init__(self, in_channels: int, out_channels: int, resample: Resample = "none", expansion: int = 4) -> None:
        super().__init__()
        if resample not in get_args(Resample):
            raise ValueError(f"resample must be one of {', '.join(get_args(Resample))}, got {resample!r}")
        hidden = expansion * out_channels
        self.norm = ChannelLayerNorm(in_channels, eps=1e-6)
        self.widen = nn.Conv2d(in_channels, hidden, 1)
        self.upsample = NearestUpsample(hidden) if resample == "double" else nn.Identity()
        self.each = nn.Conv2d(hidden, hidden, 3, stride=2 if resample == "halve" else 1, padding=1, groups=hidden)
        self.project = nn.Conv2d(hidden, out_channels, 1)
        mapped = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)
        if resample == "halve":
            mean = nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False)
            self.shortcut: nn.Module = nn.Sequential(mean, mapped)
        else:
            self.shortcut = NearestUpsample(in_channels, out_channels) if resample == "double" else mapped

    @override
    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        hidden = self.upsample(F.gelu(self.widen(self.norm(features))))
        return self.shortcut(features) + self.project(F.gelu(self.each(hidden)))


class BottleneckLevels(nn.Module):
    """Inverted bottlenecks at one resolution after another; the first of each level changes resolution and channels.

    Args:
        channels: Channels of the input and of each level.
        blocks: Number of blocks of each level, at least 1.
        resample: What the first block of a level does.
        checkpoint: Compute levels again in the backward pass instead of keeping their activations.

    Raises:
        ValueError: If there is no number of blocks for each level, or one is below 1.

    Example:
        >>> import torch
        >>> BottleneckLevels([8, 8, 16], [1, 2], "halve")(torch.randn(1, 8, 8, 12)).shape
        torch.Size([1, 16, 2, 3])
    """

    def __init__(
        self, channels: Sequence[int], blocks: Sequence[int], resample: Resample, checkpoint: bool = False
    ) -> None:
        super().__init__()
        if len(blocks) != len(channels) - 1 or min(blocks, default=0) < 1:
            raise ValueError(
                f"convolutions must be numbers of at least 1, one for each of the {len(channels) - 1} multipliers, got "
                f"{list(blocks)}"
            )
        self.levels = nn.ModuleList(
            Level(
                InvertedBottleneck(before, after, resample),
                *(InvertedBottleneck(after, after) for _ in range(1, count)),
            )
            for (before, after), count in zip(pairwise(channels), blocks, strict=True)
        )
        self.checkpoint = checkpoint

    @override
    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        for level in self.levels:
            again = self.checkpoint and self.training
            features = computed_again(level, features, use_reentrant=False) if again else level(features)
        return features
