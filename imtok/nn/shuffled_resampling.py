"""Maps at half and at twice the resolution by moving pixels into channels and back (DC-AE, arXiv 2410.10733)."""

from einops import reduce, repeat
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override


class ShuffledHalving(nn.Module):
    """A 3 x 3 convolution whose 2 x 2 positions become channels, added to means of the input's channels.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.

    Raises:
        ValueError: If ``out_channels`` is no multiple of 4, or no divisor of four times ``in_channels``.

    Example:
        >>> import torch
        >>> ShuffledHalving(8, 16)(torch.randn(1, 8, 4, 6)).shape
        torch.Size([1, 16, 2, 3])
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        if out_channels % 4:
            raise ValueError(f"channels of a level must be a multiple of 4, got {out_channels}")
        check_share(4 * in_channels, out_channels)
        self.out_channels = out_channels
        self.conv = nn.Conv2d(in_channels, out_channels // 4, 3, padding=1)

    @override
    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        shortcut = averaged(F.pixel_unshuffle(features, 2), self.out_channels)
        return F.pixel_unshuffle(self.conv(features), 2) + shortcut


class ShuffledDoubling(nn.Module):
    """A 3 x 3 convolution whose channels become 2 x 2 positions, added to the input's channels, each several times.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.

    Raises:
        ValueError: If ``in_channels`` is no divisor of four times ``out_channels``.

    Example:
        >>> import torch
        >>> ShuffledDoubling(16, 8)(torch.randn(1, 16, 2, 3)).shape
        torch.Size([1, 8, 4, 6])
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        check_share(4 * out_channels, in_channels)
        self.out_channels = out_channels
        self.conv = nn.Conv2d(in_channels, 4 * out_channels, 3, padding=1)

    @override
    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        return F.pixel_shuffle(self.conv(features) + repeated(features, 4 * self.out_channels), 2)


def averaged(features: Float[Tensor, "b c h w"], channels: int) -> Float[Tensor, "b c2 h w"]:
    """Fewer channels: each is the mean of ``c / channels`` neighbouring ones."""
    return reduce(features, "b (d k) h w -> b d h w", "mean", d=channels)


def repeated(features: Float[Tensor, "b c h w"], channels: int) -> Float[Tensor, "b c2 h w"]:
    """More channels: each of them several times."""
    return repeat(features, "b c h w -> b (c k) h w", k=channels // features.shape[1])


def check_share(more: int, fewer: int) -> None:
    """Refuse numbers of channels between which a shortcut cannot lead.

    Raises:
        ValueError: If ``more`` is no multiple of ``fewer``.
    """
    if more % fewer:
        raise ValueError(f"channels of a shortcut must be multiples of each other, got {more} and {fewer}")
