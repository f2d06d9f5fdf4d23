"""The critic that MaskGIT's tokenizer (arXiv 2202.04200) is trained against, from its public code."""

import math
from itertools import pairwise

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.critics.base import Critic
from imtok.nn.blur import Blur


class MaskGITCritic(Critic):
    """StyleGAN2's critic (arXiv 1912.04958) without scaled weights and without the spread of the batch.

    Residual blocks blur and halve down to 4 x 4; the whole image has one score. Weights start as in Glorot's rule.

    Args:
        image_size: Side of the images, in pixels: a power of two, at least 8.
        channels: Channels at 4 to 32 pixels; above, they halve with every doubling of the resolution.
        image_channels: Channels of the images: 1, 3 or 4; the builder sets it.

    Raises:
        ValueError: If ``image_size`` is no such power; in ``forward``, if images have another size.

    Example:
        >>> import torch
        >>> MaskGITCritic(image_size=16, channels=8)(torch.zeros(2, 3, 16, 16)).shape
        torch.Size([2, 1])
    """

    def __init__(self, image_size: int, channels: int = 512, image_channels: int = 3) -> None:
        super().__init__()
        if image_size < 8 or image_size & (image_size - 1):
            raise ValueError(f"image_size must be a power of two, at least 8, got {image_size}")
        self.image_size = image_size
        sides = [image_size >> halving for halving in range(int(math.log2(image_size)) - 1)]  # down to 4
        widths = [max(1, min(channels, channels * 32 // side)) for side in sides]
        self.stem = nn.Sequential(nn.Conv2d(image_channels, widths[0], 3, padding=1), nn.LeakyReLU(0.2))
        self.blocks = nn.Sequential(*(_Halving(*pair) for pair in pairwise(widths)))
        self.last = nn.Sequential(nn.Conv2d(widths[-1], channels, 3, padding=1), nn.LeakyReLU(0.2))
        self.head = nn.Sequential(nn.Linear(channels * 16, channels), nn.LeakyReLU(0.2), nn.Linear(channels, 1))
        for part in self.modules():
            if isinstance(part, (nn.Conv2d, nn.Linear)):
                nn.init.xavier_uniform_(part.weight)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)

    @override
    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        if image.shape[-2:] != (self.image_size, self.image_size):
            raise ValueError(f"images must be of {self.image_size} pixels a side, got {tuple(image.shape[-2:])}")
        features = self.last(self.blocks(self.stem(image)))
        return self.head(rearrange(features, "b c h w -> b (c h w)"))


class _Halving(nn.Module):
    """A blur that halves between two convolutions, beside one before a 1 x 1 convolution."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.LeakyReLU(0.2),
            Blur(),
            nn.Conv2d(channels, width, 3, padding=1),
            nn.LeakyReLU(0.2),
        )
        self.skip = nn.Sequential(Blur(), nn.Conv2d(channels, width, 1, bias=False))

    @override
    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        return (self.main(features) + self.skip(features)) / math.sqrt(2)
