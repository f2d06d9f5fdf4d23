"""The residual blocks of DC-AE (arXiv 2410.10733), which norm what they have computed, and its levels."""

from typing import Literal, get_args

from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.nn.efficient_vit import GatedConvolution, LinearAttention
from imtok.nn.norms import BatchNorm, ChannelRMSNorm

LevelBlock = Literal["rms", "batch", "transformer"]


class NormedLastBlock(nn.Module):
    """Two 3 x 3 convolutions with an activation between them and a norm behind them, added to the input.

    Args:
        channels: Channels of input and output.
        kind: "rms" = SiLU and the root mean square of channels (DC-AE's encoder), "batch" = ReLU and batch norm (its
            decoder).

    Example:
        >>> import torch
        >>> NormedLastBlock(16, "rms")(torch.randn(1, 16, 4, 4)).shape
        torch.Size([1, 16, 4, 4])
    """

    def __init__(self, channels: int, kind: Literal["rms", "batch"]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.activation = nn.ReLU() if kind == "batch" else nn.SiLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = BatchNorm(channels) if kind == "batch" else ChannelRMSNorm(channels)

    @override
    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return features + self.norm(self.conv2(self.activation(self.conv1(features))))


class Level(nn.Sequential):
    """The blocks of one resolution, one after another; a unit that ``trainer=fsdp`` shards."""


def level(kind: LevelBlock, channels: int, depth: int, head_width: int) -> Level:
    """The blocks of one resolution.

    Args:
        kind: "rms" or "batch" = residual blocks; "transformer" = linear attention and a gated convolution each.
        channels: Channels of input and output.
        depth: Number of blocks.
        head_width: Channels of a head of attention.

    Raises:
        ValueError: If ``kind`` is none of these.
    """
    if kind == "transformer":
        halves = [(LinearAttention(channels, head_width), GatedConvolution(channels)) for _ in range(depth)]
        return Level(*(half for block in halves for half in block))
    if kind in ("rms", "batch"):
        return Level(*(NormedLastBlock(channels, kind) for _ in range(depth)))
    raise ValueError(f"blocks of a level must be one of {', '.join(get_args(LevelBlock))}, got {kind!r}")


def check_groups(groups: int, latent_width: int) -> None:
    """Refuse groups that do not share the channels of the latent map evenly.

    Raises:
        ValueError: If ``groups`` is no divisor of ``latent_width``.
    """
    if latent_width < 1 or groups < 1 or latent_width % groups:
        raise ValueError(f"groups must divide latent_width, got {groups} and {latent_width}")


def check_levels(multipliers: int, depths: int, transformers: int) -> None:
    """Refuse numbers of levels that do not fit together.

    Args:
        multipliers: Levels that have a width.
        depths: Levels that have a number of blocks.
        transformers: Levels whose blocks are transformers.

    Raises:
        ValueError: If they do not.
    """
    if multipliers < 1 or depths != multipliers or not 0 <= transformers <= multipliers:
        raise ValueError(
            "multipliers and depths must have a number for each level, and transformers at most as many levels, got "
            f"{multipliers}, {depths} and {transformers}"
        )
