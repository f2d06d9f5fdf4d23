"""The patch critic of pix2pix (arXiv 1611.07004) that VQGAN (arXiv 2012.09841) and most tokenizers train against."""

from typing import Literal, get_args

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.critics.base import Critic
from imtok.nn.norms import group_norm

Norm = Literal["group", "none"]


class PatchGAN(Critic):
    """Convolutions of 4 x 4 that score overlapping patches, 70 x 70 pixels each at three halvings.

    The published one has batch norm, which ties images, ranks and the two forward passes of a step to each other; here
    it is group norm or none.

    Args:
        channels: Channels of the first convolution; doubled at each halving, up to eight times.
        halvings: Convolutions of stride 2.
        norm: "group" or "none", after all but the first and the last convolution.
        image_channels: Channels of the images: 1, 3 or 4; the builder sets it.

    Raises:
        ValueError: If an argument is out of range; in ``forward``, if the image is too small.

    Example:
        >>> import torch
        >>> PatchGAN(channels=16)(torch.zeros(2, 3, 64, 64)).shape  # 6 x 6 patches
        torch.Size([2, 36])
    """

    def __init__(self, channels: int = 64, halvings: int = 3, norm: Norm = "group", image_channels: int = 3) -> None:
        super().__init__()
        if channels < 1 or halvings < 1:
            raise ValueError(f"channels and halvings must be at least 1, got {channels} and {halvings}")
        if norm not in get_args(Norm):
            raise ValueError(f"norm must be one of {', '.join(get_args(Norm))}, got {norm!r}")
        self.smallest = 3 * 2**halvings
        layers: list[nn.Module] = [nn.Conv2d(image_channels, channels, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        width = channels
        for index in range(1, halvings + 1):
            wider = channels * min(2**index, 8)
            stride = 2 if index < halvings else 1
            layers.append(nn.Conv2d(width, wider, 4, stride, padding=1, bias=norm == "none"))
            layers += [group_norm(wider)] if norm == "group" else []
            layers.append(nn.LeakyReLU(0.2))
            width = wider
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, 1, 4, padding=1))
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.02)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    @override
    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        if min(image.shape[-2:]) < self.smallest:
            raise ValueError(
                f"images must be at least {self.smallest} pixels a side for this critic, got {tuple(image.shape[-2:])}"
            )
        return rearrange(self.layers(image), "b 1 h w -> b (h w)")
