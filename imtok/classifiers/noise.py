"""Changes of the vectors of tokens, which no pixels are needed for."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from imtok.classifiers.augment import Augmentation
from imtok.classifiers.embedded import Embedded

_LEAST = 1e-4  # deviation of a channel of an image, below which it is not stretched further


class Noise(Augmentation):
    """Adds Gaussian noise to the vectors, as SeiT's Emb-Noise (arXiv 2303.11114).

    Args:
        deviation: Of the noise. The vectors have deviation 1.

    Raises:
        ValueError: If it is negative.
    """

    def __init__(self, deviation: float) -> None:
        if deviation < 0:
            raise ValueError(f"deviation must not be negative, got {deviation}")
        self.deviation = deviation

    @override
    def __call__(self, images: Embedded) -> Embedded:
        noise = torch.randn_like(images.vectors) * self.deviation
        return replace(images, vectors=images.vectors + noise * images.seen[..., None])


class Recolour(Augmentation):
    """Gives the tokens of an image mean and deviation of another image's, channel by channel.

    What an image is of stays in the order of its tokens, while its tone changes: the idea of SeiT++'s ColorAdapt (arXiv
    2312.10105), which is that of AdaIN (arXiv 1703.06868).

    Args:
        probability: That an image is changed.

    Raises:
        ValueError: If it is out of range.
    """

    def __init__(self, probability: float) -> None:
        if not 0 <= probability <= 1:
            raise ValueError(f"probability must lie in [0, 1], got {probability}")
        self.probability = probability

    @override
    def __call__(self, images: Embedded) -> Embedded:
        count, device = len(images.vectors), images.vectors.device
        other = torch.randperm(count, device=device)
        mean, deviation = moments(images)
        changed = (images.vectors - mean) / deviation * deviation[other] + mean[other]
        chosen = (torch.rand(count, device=device) < self.probability)[:, None, None] & images.seen[..., None]
        return replace(images, vectors=torch.where(chosen, changed, images.vectors))


def moments(images: Embedded) -> tuple[Float[Tensor, "b 1 d"], Float[Tensor, "b 1 d"]]:
    """Mean and deviation of each channel over the tokens that are seen of each image."""
    seen = images.seen[..., None].to(images.vectors.dtype)
    number = seen.sum(1, keepdim=True).clamp(min=1)
    mean = (images.vectors * seen).sum(1, keepdim=True) / number
    variance = ((images.vectors - mean).square() * seen).sum(1, keepdim=True) / number
    return mean, variance.sqrt().clamp(min=_LEAST)
