"""What is computed in one pass over a data set: each measure sees every batch and says what it found."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor
from typing_extensions import override

from imtok.measures.inference import Size
from imtok.measures.mean import ImageMean
from imtok.pixels import to_uint8
from imtok.tokenizer import Tokenizer
from imtok.types import Batch, Condition, Reconstruction


@dataclass(frozen=True)
class Seen:
    """A batch and what the tokenizer made of it.

    Attributes:
        tokenizer: In evaluation mode.
        batch: Where the images come from.
        image: The images as the tokenizer took them, in ``[-1, 1]``.
        reconstruction: What it returned.
        condition: What it was told of the images; None = nothing.
    """

    tokenizer: Tokenizer
    batch: Batch
    image: Float[Tensor, "b 3 h w"]
    reconstruction: Reconstruction
    condition: Condition | None = None

    @property
    def size(self) -> Size:
        """Height and width."""
        return (self.image.shape[-2], self.image.shape[-1])

    @cached_property
    def pixels(self) -> UInt8[Tensor, "b 3 h w"]:
        """The reconstructions as pixels."""
        return to_uint8(self.reconstruction.image)

    @cached_property
    def target(self) -> UInt8[Tensor, "b 3 h w"]:
        """What they should be."""
        return self.batch.image.to(self.image.device)


class Number(NamedTuple):
    """A value and how it came about.

    Attributes:
        value: The number.
        convention: How it is computed, in words.
        facts: What else must be alike for another number to be comparable.
    """

    value: float
    convention: str
    facts: dict[str, Any]


@dataclass
class Found:
    """What a measure found.

    Attributes:
        numbers: By name.
        absent: Why a number is missing, by name.
        tables: Longer results by name, as plain values.
        slots: Statistics of each slot.
        arrays: For ``codes.npz``.
        pictures: PNG files by title.
    """

    numbers: dict[str, Number] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    tables: dict[str, Any] = field(default_factory=dict)
    slots: list[dict[str, float]] = field(default_factory=list)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    pictures: dict[str, bytes] = field(default_factory=dict)

    def add(self, other: "Found") -> None:
        """Take in what another measure found."""
        self.numbers |= other.numbers
        self.absent |= other.absent
        self.tables |= other.tables
        self.slots = self.slots or other.slots
        self.arrays |= other.arrays
        self.pictures |= other.pictures


class Measure(ABC):
    """Sees every batch of this rank, in order."""

    taps: tuple[str, ...] = ()  # sub-modules of the tokenizer whose outputs it looks at

    def start(self, tokenizer: Tokenizer, size: Size) -> None:
        """Refuse, before anything is computed, what cannot be measured. Called once, with the first batch's size."""
        return

    def missing(self, tokenizer: Tokenizer, size: Size) -> dict[str, str]:
        """Why metrics cannot be had of images of this size, by name, as far as that is known before any is computed."""
        return {}

    @abstractmethod
    def update(self, seen: Seen) -> None:
        """Count a batch in."""

    def numbers(self, size: Size) -> dict[str, bool | None]:
        """The numbers that ``finish`` gives of images of a size, and whether a larger one is better; None = neither.

        Nothing else says that: not ``finish``, and no table of names. What is left out has no better.
        """
        return {}

    @abstractmethod
    def finish(self) -> Found:
        """What was found over all batches of all ranks. Called on every rank, in the same order."""


class ImageMeasure(Measure):
    """A mean over images of what pixels say about reconstruction and original.

    Args:
        name: The number's name.
        metric: What is averaged; has a ``convention``.
        smallest: Images below so many pixels a side cannot be measured.
        facts: Hash of weights, where the metric has some.
    """

    def __init__(self, name: str, metric: ImageMean, smallest: int = 1, facts: dict[str, Any] | None = None) -> None:
        self.name, self.metric, self.smallest, self.facts = name, metric, smallest, facts or {}

    @override
    def missing(self, tokenizer: Tokenizer, size: Size) -> dict[str, str]:
        return {self.name: self._reason} if min(size) < self.smallest else {}

    @override
    def update(self, seen: Seen) -> None:
        if min(seen.size) >= self.smallest:
            self.metric.update(seen.pixels.to(self.metric.device), seen.target.to(self.metric.device))

    @override
    def numbers(self, size: Size) -> dict[str, bool | None]:
        return {self.name: self.metric.higher_is_better} if min(size) >= self.smallest else {}

    @override
    def finish(self) -> Found:
        value = float(self.metric.compute().item())
        if value != value:  # no rank had an image that was large enough
            return Found(absent={self.name: self._reason})
        return Found({self.name: Number(value, str(getattr(self.metric, "convention", "")), self.facts)})

    @property
    def _reason(self) -> str:
        return f"its window needs images of at least {self.smallest} pixels a side"
