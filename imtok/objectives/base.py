"""The contract that every objective keeps."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from imtok.losses.adversarial import Adversary
from imtok.losses.alignment.base import AlignmentLoss
from imtok.tokenizer import Tokenizer
from imtok.types import Batch, Losses, NetLosses, StepOutput


class Objective(nn.Module, ABC):
    """What a training step minimises, and the only place that knows how a step is made.

    It may own further nets, each of which learns by losses of its own, with an optimiser of its own: :meth:`nets` names
    them, :meth:`net_losses` says what they learn. A critic is one of them, and has methods to itself.

    Attributes:
        critic: What learns against the tokenizer; None = there is none.
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

    def begin(self, tokenizer: Tokenizer) -> None:
        """Make copies of the tokenizer at the start of a run, before a checkpoint is read. The default makes none.

        Copies are sub-modules of the objective, so checkpoints hold their state.
        """

    def follow(self, tokenizer: Tokenizer) -> None:
        """Update copies of the tokenizer after an optimiser step. The default does nothing."""

    def heads(self) -> nn.Module | None:
        """What learns with the tokenizer and is no part of it, such as a projector to a teacher's features.

        It shares the tokenizer's optimiser, and is in checkpoints, but in no average of the weights and no export.
        """
        return None

    @property
    def reads(self) -> tuple[str, ...]:
        """What its alignments look at of a batch besides the images: "caption", or nothing."""
        alignments = (part for part in self.modules() if isinstance(part, AlignmentLoss))
        return tuple(dict.fromkeys(kind for part in alignments for kind in part.reads))

    def nets(self) -> Mapping[str, nn.Module]:
        """Further nets by name: sub-modules of the objective that learn, and that share no weights.

        A name is that of the section ``optimizer.nets.NAME`` and of the columns ``lr_NAME`` and ``gradient_norm_NAME``.
        The nets of a class with a critic are ``{**super().nets(), ...}``.
        """
        return {} if self.critic is None else {"critic": self.critic}

    def net_losses(self, name: str, shown: StepOutput, step: int) -> NetLosses | None:
        """What one of the nets learns from what a step has shown; None, on all ranks alike, while it does not learn.

        Asked for each net in turn, after the tokenizer's own losses. The other nets stay as they are meanwhile.

        Args:
            name: One of :meth:`nets`.
            shown: Of the same micro-batch, without gradients.
            step: Optimiser steps taken so far.
        """
        if name != "critic":
            raise NotImplementedError(f"{type(self).__name__}.net_losses must give losses for the net {name}")
        return self.critic_loss(shown, step)

    def net_start(self, name: str) -> int | None:
        """The first step in which one of the nets learns, where its schedule may begin; None = not known, or 0."""
        return self.adversary.critic_start if name == "critic" and self.adversary is not None else None

    def net_update(self, name: str, stats: dict[str, Tensor]) -> None:
        """Apply what the losses of one of the nets counted in a step, summed over micro-batches and ranks.

        Called once for each step in which that net has learnt.
        """
        if name == "critic":
            self.update(stats)

    def critic_loss(self, shown: StepOutput, step: int) -> NetLosses | None:
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
