"""The critic of VQGAN+ and MaskBit (arXiv 2409.16211), which TiTok (arXiv 2406.07550) and TA-TiTok train against."""

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.critics.base import Critic
from imtok.nn.blur import Blur
from imtok.nn.norms import group_norm


class MaskBitCritic(Critic):
    """Convolutions of 3 x 3 that halve by a blur, pooled to a fixed grid of places that are scored.

    Args:
        channels: Channels of the first stage; the second has as many, the third twice, the fourth four times.
        halvings: Number of stages.
        grid: Places scored along each side.
        image_channels: Channels of the images: 1, 3 or 4; the builder sets it.

    Raises:
        ValueError: If an argument is not positive; in ``forward``, if the image is too small.

    Example:
        >>> import torch
        >>> MaskBitCritic(channels=16, halvings=2, grid=4)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 16])
    """

    def __init__(self, channels: int = 128, halvings: int = 3, grid: int = 16, image_channels: int = 3) -> None:
        super().__init__()
        if min(channels, halvings, grid) < 1:
            raise ValueError(f"channels, halvings and grid must be at least 1, got {channels}, {halvings} and {grid}")
        self.smallest = 2**halvings
        self.stem = nn.Conv2d(image_channels, channels, 5, padding=2)
        stages: list[nn.Module] = []
        width = channels
        for index in range(halvings):
            wider = channels * 2**index
            stages += [nn.Conv2d(width, wider, 3, padding=1), Blur(), group_norm(wider), nn.LeakyReLU(0.1)]
            width = wider
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveMaxPool2d(grid)
        self.head = nn.Sequential(nn.Conv2d(width, width, 1), nn.LeakyReLU(0.1), nn.Conv2d(width, 1, 5, padding=2))

    @override
    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        if min(image.shape[-2:]) < self.smallest:
            raise ValueError(
                f"images must be at least {self.smallest} pixels a side for this critic, got {tuple(image.shape[-2:])}"
            )
        features = self.stages(F.leaky_relu(self.stem(image), 0.1))
        return rearrange(self.head(self.pool(features)), "b 1 h w -> b (h w)")
