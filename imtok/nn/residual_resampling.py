"""Maps at half and at twice the resolution, around a shortcut without parameters (DC-AE, arXiv 2410.10733)."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override


class ResidualHalving(nn.Module):
    """A 3 x 3 convolution of stride 2, added to the mean of 2 x 2 positions.

    Args:
        channels: Channels of input and output.

    Example:
        >>> import torch
        >>> ResidualHalving(8)(torch.randn(1, 8, 4, 6)).shape
        torch.Size([1, 8, 2, 3])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    @override
    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        return self.conv(features) + F.avg_pool2d(features, 2)


class ResidualDoubling(nn.Module):
    """A 3 x 3 convolution to four times the channels, which become 2 x 2 positions, added to repeated positions.

    Args:
        channels: Channels of input and output.

    Example:
        >>> import torch
        >>> ResidualDoubling(8)(torch.randn(1, 8, 2, 3)).shape
        torch.Size([1, 8, 4, 6])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4 * channels, 3, padding=1)

    @override
    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        repeated = F.interpolate(features, scale_factor=2.0, mode="nearest")
        return F.pixel_shuffle(self.conv(features), 2) + repeated
