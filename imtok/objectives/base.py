"""The contract that every objective keeps."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from imtok.tokenizer import Tokenizer
from imtok.types import Batch, Losses, Shown


class Objective(nn.Module, ABC):
    """What a training step minimises, and the only place that knows how a step is made.

    Attributes:
        critic: A network that learns against the tokenizer, with an optimiser of its own; None = there is none.
    """

    critic: nn.Module | None

    def __init__(self) -> None:
        super().__init__()
        self.critic = None  # of the class, it would hide the sub-module that a subclass assigns

    @abstractmethod
    def forward(self, tokenizer: Tokenizer, batch: Batch, step: int, generator: torch.Generator) -> Losses:
        """The tokenizer's losses on a micro-batch.

        Args:
            tokenizer: What is trained.
            batch: Images in uint8, with labels.
            step: Optimiser steps taken so far, for schedules.
            generator: Randomness of this step and rank.
        """

    def critic_loss(self, shown: Shown, step: int) -> Float[Tensor, ""] | None:
        """The critic's loss on what the step has shown; None while the critic does not learn."""
        return None
