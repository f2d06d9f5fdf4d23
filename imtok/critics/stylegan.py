"""The critic of StyleGAN2 (arXiv 1912.04958), as ViT-VQGAN (arXiv 2110.04627) and BSQ (arXiv 2406.07548) use it."""

import math
from itertools import pairwise

import torch
from einops import rearrange, reduce, repeat
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.critics.base import Critic
from imtok.nn.blur import Blur

_GROUP = 4  # images whose spread is shown to the critic


class StyleGANCritic(Critic):
    """Residual blocks that halve down to 4 x 4, the spread of the batch, and one score for the whole image.

    Weights are drawn from a normal distribution and scaled in use ("equalised"), so that one learning rate fits all
    layers. The spread is that of the images of a micro-batch on one rank, photographs and reconstructions apart.

    Args:
        image_size: Side of the images, in pixels: a power of two, at least 8.
        channels: Channels at 4 to 64 pixels; above, they halve with every doubling of the resolution.
        image_channels: Channels of the images: 1, 3 or 4; the builder sets it.

    Raises:
        ValueError: If ``image_size`` is no such power; in ``forward``, if images have another size.

    Example:
        >>> StyleGANCritic(image_size=16, channels=8)(torch.zeros(2, 3, 16, 16)).shape
        torch.Size([2, 1])
    """

    def __init__(self, image_size: int, channels: int = 512, image_channels: int = 3) -> None:
        super().__init__()
        if image_size < 8 or image_size & (image_size - 1):
            raise ValueError(f"image_size must be a power of two, at least 8, got {image_size}")
        self.image_size = image_size
        sides = [image_size >> halving for halving in range(int(math.log2(image_size)) - 1)]  # down to 4
        widths = [max(1, min(channels, channels * 64 // side)) for side in sides]
        self.stem = nn.Sequential(_Convolution(image_channels, widths[0], 1), nn.LeakyReLU(0.2))
        self.blocks = nn.Sequential(*(_Halving(a, b) for a, b in pairwise(widths)))
        self.last = nn.Sequential(_Convolution(widths[-1] + 1, channels, 3, padding=1), nn.LeakyReLU(0.2))
        self.head = nn.Sequential(_Linear(channels * 16, channels, gain=2.0), nn.LeakyReLU(0.2), _Linear(channels, 1))

    @override
    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        if image.shape[-2:] != (self.image_size, self.image_size):
            raise ValueError(f"images must be of {self.image_size} pixels a side, got {tuple(image.shape[-2:])}")
        features = self.last(_with_spread(self.blocks(self.stem(image))))
        return self.head(rearrange(features, "b c h w -> b (c h w)"))


class _Convolution(nn.Conv2d):
    """Scaled in use to keep the variance; with the gain of the leaky rectifier and a bias where one follows."""

    def __init__(
        self, channels: int, width: int, kernel: int, stride: int = 1, padding: int = 0, activated: bool = True
    ) -> None:
        super().__init__(channels, width, kernel, stride, padding, bias=activated)
        self.scale = math.sqrt((2.0 if activated else 1.0) / (channels * kernel**2))
        nn.init.normal_(self.weight)
        nn.init.zeros_(self.bias if self.bias is not None else torch.empty(0))

    @override
    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.weight * self.scale, self.bias)


class _Linear(nn.Linear):
    def __init__(self, channels: int, width: int, gain: float = 1.0) -> None:
        super().__init__(channels, width)
        self.scale = math.sqrt(gain / channels)
        nn.init.normal_(self.weight)
        nn.init.zeros_(self.bias)

    @override
    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.linear(input, self.weight * self.scale, self.bias)


class _Halving(nn.Module):
    """Two convolutions, the second of stride 2 after a blur, beside a blurred 1 x 1 one of stride 2."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            _Convolution(channels, channels, 3, padding=1),
            nn.LeakyReLU(0.2),
            Blur(stride=1, padding=(2, 2)),
            _Convolution(channels, width, 3, stride=2),
            nn.LeakyReLU(0.2),
        )
        self.skip = nn.Sequential(Blur(stride=2), _Convolution(channels, width, 1, activated=False))

    @override
    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        return (self.main(features) + self.skip(features)) / math.sqrt(2)


def _with_spread(features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
    """The mean deviation over groups of images, as one more channel."""
    group = next(size for size in range(min(_GROUP, len(features)), 0, -1) if len(features) % size == 0)
    groups = rearrange(features, "(g n) c h w -> g n c h w", g=group)
    deviation = (groups.var(0, correction=0) + 1e-8).sqrt()
    spread = repeat(reduce(deviation, "n c h w -> n", "mean"), "n -> (g n) 1 h w", g=group, **_size(features))
    return torch.cat([features, spread], 1)


def _size(features: Tensor) -> dict[str, int]:
    return {"h": features.shape[-2], "w": features.shape[-1]}
