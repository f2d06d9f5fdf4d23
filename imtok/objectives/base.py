"""The contract that every objective keeps."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from imtok.losses.adversarial import Adversary
from imtok.tokenizer import Tokenizer
from imtok.types import Batch, CriticLosses, Losses, Shown


class Objective(nn.Module, ABC):
    """What a training step minimises, and the only place that knows how a step is made.

    Attributes:
        critic: What learns against the tokenizer, with an optimiser of its own; None = there is none.
    """

    critic: nn.Module | None

    def __init__(self) -> None:
        super().__init__()
        self.critic = None  # of the class, it would hide the sub-module that a subclass assigns

    @property
    def adversary(self) -> Adversary | None:
        """The critic, where it is an adversary of images; None = there is none."""
        return self.critic if isinstance(self.critic, Adversary) else None

    @abstractmethod
    def forward(self, tokenizer: Tokenizer, batch: Batch, step: int, generator: torch.Generator) -> Losses:
        """The tokenizer's losses on a micro-batch.

        Args:
            tokenizer: What is trained.
            batch: Images in uint8, with labels.
            step: Optimiser steps taken so far, for schedules.
            generator: Randomness of this step and rank.
        """

    def heads(self) -> nn.Module | None:
        """What learns with the tokenizer and is no part of it, such as a projector to a teacher's features.

        It shares the tokenizer's optimiser, and is in checkpoints, but in no average of the weights and no export.
        """
        return None

    def critic_loss(self, shown: Shown, step: int) -> CriticLosses | None:
        """The critic's losses on what the step has shown; None while the critic does not learn."""
        if self.adversary is None or shown.image is None:
            return None
        return self.adversary.losses(shown.target, shown.image, step)

    def update(self, stats: dict[str, Tensor]) -> None:
        """Apply what the critic's losses of a step counted, summed over micro-batches and ranks.

        Called once for each step in which the critic has learnt.
        """
        if self.adversary is not None:
            self.adversary.update(stats)
