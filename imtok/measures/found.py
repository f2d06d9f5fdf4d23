"""What a measure sees of a batch, and what it found over all of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Real
from torch import Tensor

from imtok.measures.inference import Size
from imtok.pixels import to_levels
from imtok.tokenizer import Tokenizer
from imtok.types import Batch, Condition, Reconstruction


@dataclass(frozen=True)
class EvaluationBatch:
    """A batch and what the tokenizer made of it.

    Attributes:
        tokenizer: In evaluation mode.
        batch: Where the images come from.
        image: The images as the tokenizer took them, in ``[-1, 1]``.
        reconstruction: What it returned.
        condition: What it was told of the images; None = nothing.
        whole: Whether it was asked for all of its tokens.
    """

    tokenizer: Tokenizer
    batch: Batch
    image: Float[Tensor, "b c h w"]
    reconstruction: Reconstruction
    condition: Condition | None = None
    whole: bool = True

    @property
    def size(self) -> Size:
        """Height and width."""
        return (self.image.shape[-2], self.image.shape[-1])

    @cached_property
    def pixels(self) -> Real[Tensor, "b c h w"]:
        """The reconstructions as pixels."""
        return to_levels(self.reconstruction.image)

    @cached_property
    def target(self) -> Real[Tensor, "b c h w"]:
        """What they should be."""
        return self.batch.image.to(self.image.device)


class Number(NamedTuple):
    """A value and how it came about.

    Attributes:
        value: The number.
        convention: How it is computed, in words; empty = as the class says.
        facts: What else must be alike for another number to be comparable.
    """

    value: float
    convention: str = ""
    facts: Mapping[str, Any] = MappingProxyType({})


@dataclass
class MeasureResult:
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

    def add(self, other: "MeasureResult") -> None:
        """Take in what another measure found."""
        self.numbers |= other.numbers
        self.absent |= other.absent
        self.tables |= other.tables
        self.slots = self.slots or other.slots
        self.arrays |= other.arrays
        self.pictures |= other.pictures
