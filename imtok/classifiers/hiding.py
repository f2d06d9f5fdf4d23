"""Tokens of a training batch that are left out, or say nothing."""

from dataclasses import replace

import torch
from typing_extensions import override

from imtok.classifiers.augment import Augmentation
from imtok.classifiers.embedded import Embedded


class Drop(Augmentation):
    """Leaves out tokens at random: the classifier sees the others alone.

    Args:
        share: Of the tokens, in [0, 1).

    Raises:
        ValueError: If it is out of range.
    """

    def __init__(self, share: float) -> None:
        self.share = _share(share)

    @override
    def __call__(self, images: Embedded) -> Embedded:
        return replace(images, seen=images.seen & ~_drawn(images, self.share))


class Mask(Augmentation):
    """Puts the mean of all tokens, which is zero, in the place of some.

    Args:
        share: Of the tokens, in [0, 1).

    Raises:
        ValueError: If it is out of range.
    """

    def __init__(self, share: float) -> None:
        self.share = _share(share)

    @override
    def __call__(self, images: Embedded) -> Embedded:
        return replace(images, vectors=images.vectors.masked_fill(_drawn(images, self.share)[..., None], 0.0))


def _share(share: float) -> float:
    if not 0 <= share < 1:
        raise ValueError(f"share must lie in [0, 1), got {share}")
    return share


def _drawn(images: Embedded, share: float) -> torch.Tensor:
    return torch.rand(images.seen.shape, device=images.seen.device) < share
