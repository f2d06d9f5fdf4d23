"""Tokens of a training batch that are left out, or say nothing."""

from dataclasses import replace

import torch
from jaxtyping import Bool
from torch import Tensor
from typing_extensions import override

from imtok.classifiers.augment import Augmentation
from imtok.classifiers.embedded import Embedded


class Hiding(Augmentation):
    """Hides tokens at random.

    Args:
        share: Of the tokens, in [0, 1).

    Raises:
        ValueError: If it is out of range.
    """

    def __init__(self, share: float) -> None:
        if not 0 <= share < 1:
            raise ValueError(f"share must lie in [0, 1), got {share}")
        self.share = share

    def drawn(self, images: Embedded) -> Bool[Tensor, "b n"]:
        """The mask of hidden tokens."""
        return torch.rand(images.seen.shape, device=images.seen.device) < self.share


class Drop(Hiding):
    """Leaves out tokens: the classifier sees only the others."""

    @override
    def __call__(self, images: Embedded) -> Embedded:
        return replace(images, seen=images.seen & ~self.drawn(images))


class Mask(Hiding):
    """Replaces some tokens by the mean of all tokens, which is zero."""

    @override
    def __call__(self, images: Embedded) -> Embedded:
        return replace(images, vectors=images.vectors.masked_fill(self.drawn(images)[..., None], 0.0))
