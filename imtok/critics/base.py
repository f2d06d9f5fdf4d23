"""The contract that every critic keeps."""

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor, nn


class Critic(nn.Module, ABC):
    """Scores how much an image looks like a photograph.

    It writes no state in ``forward``, so that micro-batches, ranks and the tokenizer's own look at it are harmless.
    """

    @abstractmethod
    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Scores of each image, one or one per place; positive = a photograph. Images in ``[-1, 1]``."""

    def update(self) -> None:
        """What changes once per step in which the critic has learnt, by other means than its optimiser."""


class CriticAugmentation(nn.Module, ABC):
    """Changes images before a critic sees them, real and fake ones alike; gradients pass through it."""

    @abstractmethod
    def forward(self, image: Float[Tensor, "b c h w"], step: int) -> Float[Tensor, "b c h2 w2"]:
        """The changed images; its randomness is torch's own, which is seeded at every step.

        Args:
            image: Images in ``[-1, 1]``.
            step: Optimiser steps since the critic began to learn.
        """
