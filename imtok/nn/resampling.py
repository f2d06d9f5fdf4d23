"""Feature maps at half and at twice the resolution, in the ways of the published convolutional tokenizers."""

from typing import Literal, get_args

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

Downsampling = Literal["padded_end", "padded_both", "average"]
Upsampling = Literal["nearest", "depth_to_space"]


def downsampler(kind: Downsampling, channels: int) -> nn.Module:
    """A module that halves height and width.

    Args:
        kind: "padded_end" is a 3 x 3 convolution of stride 2 over a map padded at its right and bottom edge (VQGAN),
            "padded_both" the same padded on all sides (Open-MAGVIT2), "average" the mean of 2 x 2 positions (MaskGIT).
        channels: Channels of input and output.

    Raises:
        ValueError: If ``kind`` is none of these.
    """
    if kind == "padded_end":
        return nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(channels, channels, 3, stride=2))
    if kind == "padded_both":
        return nn.Conv2d(channels, channels, 3, stride=2, padding=1)
    if kind == "average":
        return nn.AvgPool2d(2)
    raise ValueError(f"downsample must be one of {', '.join(get_args(Downsampling))}, got {kind!r}")


def upsampler(kind: Upsampling, channels: int) -> nn.Module:
    """A module that doubles height and width.

    Args:
        kind: "nearest" repeats every position and applies a 3 x 3 convolution (VQGAN), "depth_to_space" lets a 3 x 3
            convolution write the four positions that take the place of one (Open-MAGVIT2).
        channels: Channels of input and output.

    Raises:
        ValueError: If ``kind`` is none of these.
    """
    if kind == "nearest":
        return NearestUpsample(channels)
    if kind == "depth_to_space":
        return DepthToSpaceUpsample(channels)
    raise ValueError(f"upsample must be one of {', '.join(get_args(Upsampling))}, got {kind!r}")


class NearestUpsample(nn.Module):
    """Repeats every position 2 x 2 times, then a 3 x 3 convolution.

    Args:
        channels: Channels of the input.
        out_channels: Channels of the output; None = the same.

    Example:
        >>> import torch
        >>> NearestUpsample(8)(torch.randn(1, 8, 4, 4)).shape
        torch.Size([1, 8, 8, 8])
    """

    def __init__(self, channels: int, out_channels: int | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels or channels, 3, padding=1)

    @override
    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        return self.conv(F.interpolate(features, scale_factor=2.0, mode="nearest"))


class DepthToSpaceUpsample(nn.Module):
    """A 3 x 3 convolution to four times the channels, which become the 2 x 2 positions in place of one.

    Channels are ordered (row, column, channel); torch's ``PixelShuffle`` has them as (channel, row, column).

    Args:
        channels: Channels of input and output.

    Example:
        >>> import torch
        >>> DepthToSpaceUpsample(8)(torch.randn(1, 8, 4, 4)).shape
        torch.Size([1, 8, 8, 8])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4 * channels, 3, padding=1)

    @override
    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        return rearrange(self.conv(features), "b (p q c) h w -> b c (h p) (w q)", p=2, q=2)
