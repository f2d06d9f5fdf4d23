"""What every net is asked for that a run trains on the tokens of a store: a generator of them, or a classifier."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from imtok.priors.rows import TokenBatch, TokenRows


class TokenLearner(nn.Module, ABC):
    """A net that learns from tokens, is measured on others, and is saved in a folder of the run.

    Attributes:
        name: Of its folder in the run folder, and of what it is in messages.
        member: What names of its weights begin with in a checkpoint.
        numbers: What :meth:`measured` calls its numbers, the main one first, and whether higher is better.
    """

    name: ClassVar[str]
    member: ClassVar[str]
    numbers: ClassVar[Mapping[str, bool]]

    @abstractmethod
    def losses(self, batch: TokenBatch, progress: float) -> Mapping[str, Float[Tensor, ""]]:
        """What a training step minimises, by name: their sum. ``progress`` is the share of the run that is over."""

    @abstractmethod
    def try_out(self, batch: TokenBatch) -> None:
        """Read some tokens before anything is written; ValueError if the net cannot."""

    @abstractmethod
    def counts(self, batches: Iterable[TokenBatch]) -> tuple[float, ...]:
        """What is counted on some tokens. Counts of other tokens can be added to these."""

    @abstractmethod
    def measured(self, counts: Sequence[float]) -> tuple[int, dict[str, float]]:
        """How many images some counts are of, and the ``numbers`` that they make."""

    @abstractmethod
    def concluded(self, counts: Sequence[float], rows: TokenRows, held_out: TokenRows) -> dict[str, Any]:
        """All that a run says at its end: plain values, the ``numbers`` among them.

        Args:
            counts: On all held-out tokens.
            rows: What was learnt from.
            held_out: What was measured.
        """

    @abstractmethod
    def described(self) -> Mapping[str, str]:
        """What the net is and what it reads, in a line each, by a word."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write ``config.json`` and ``model.safetensors``; the folder appears whole or not at all."""
