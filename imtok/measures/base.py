"""What is computed in one pass over a data set: each measure sees every batch and says what it found."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from typing_extensions import override

from imtok.measures.bench import Bench
from imtok.measures.found import EvaluationBatch, MeasureResult, Number
from imtok.measures.inference import Size
from imtok.measures.mean import ImageMean
from imtok.measures.quantity import Quantity, declared
from imtok.tokenizer import Tokenizer

__all__ = ["Bench", "EvaluationBatch", "ImageMeasure", "Measure", "MeasureResult", "Number", "Quantity"]


class Measure(ABC):
    """Sees every batch of this rank, in order. A file of ``configs/measure`` names the class and gives its arguments.

    A class of one number says of it what :class:`Quantity` says, in attributes of these names; a class of several has
    ``quantities``; one that only makes tables has neither.

    Attributes:
        key: Its name in the config, in the section ``measure``.
        about: Of a class that is not imtok's: class, arguments and version, which its numbers depend on.
    """

    name: str = ""
    title: str = ""
    unit: str = ""
    convention: str = ""
    higher_is_better: bool | None = None
    meaning: str = ""
    quantities: tuple[Quantity, ...] = ()

    taps: tuple[str, ...] = ()  # sub-modules of the tokenizer whose outputs it looks at
    needs_ids: bool = False  # a tokenizer with continuous latents cannot be measured
    any_size: bool = False  # batches may differ in size, and what the tokenizer read may be larger than the image
    key: str = ""
    about: Mapping[str, Any] = MappingProxyType({})

    def set_up(self, bench: Bench) -> None:
        """Make what depends on the tokenizer, on the protocol and on where it is computed. Called once, first of all.

        Raises:
            MissingWeightsError: If weights are not on this machine: ``skip_missing`` leaves the measure out then.
            InputError: If a setting does not fit the tokenizer.
        """
        return

    def missing(self, tokenizer: Tokenizer, size: Size) -> dict[str, str]:
        """Why metrics cannot be had of images of this size, by name, as far as that is known before any is computed."""
        return {}

    def start(self, tokenizer: Tokenizer, size: Size) -> None:
        """Refuse, before anything is computed, what cannot be measured. Called once, with the first batch's size."""
        return

    @abstractmethod
    def update(self, seen: EvaluationBatch) -> None:
        """Count a batch in."""

    def numbers(self, size: Size) -> Sequence[Quantity]:
        """The numbers that ``finish`` gives of images of a size; those that depend on their number may lack."""
        return declared(self)

    @abstractmethod
    def finish(self) -> MeasureResult:
        """What was found over all batches of all ranks. Called on every rank, in the same order."""


class ImageMeasure(Measure):
    """A mean over images of what pixels say about reconstruction and original.

    Args:
        metric: What is averaged; its class says what the number is.
    """

    any_size = True

    def __init__(self, metric: ImageMean) -> None:
        self.metric = metric
        self.quantities = declared(metric)
        self.name = metric.name

    @override
    def set_up(self, bench: Bench) -> None:
        self.metric = self.metric.to(bench.device if any(self.metric.parameters()) else bench.exact)

    @override
    def missing(self, tokenizer: Tokenizer, size: Size) -> dict[str, str]:
        return {} if self._fits(size) else {self.name: self._reason}

    @override
    def update(self, seen: EvaluationBatch) -> None:
        if self._fits(seen.size):
            self.metric.update(seen.pixels.to(self.metric.device), seen.target.to(self.metric.device))

    @override
    def numbers(self, size: Size) -> Sequence[Quantity]:
        return self.quantities if self._fits(size) else ()

    @override
    def finish(self) -> MeasureResult:
        value = float(self.metric.compute().item())
        if value != value:  # no rank had an image that was large enough, or could be measured
            return MeasureResult(absent={self.name: self.metric.lacking or self._reason})
        return MeasureResult({self.name: Number(value, facts=self.metric.facts)})

    def _fits(self, size: Size) -> bool:
        return min(size) >= self.metric.smallest

    @property
    def _reason(self) -> str:
        return f"its window needs images of at least {self.metric.smallest} pixels a side"
