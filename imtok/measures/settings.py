"""What an evaluation is asked to find."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from imtok.errors import InputError
from imtok.measures.frechet import FeatureGaussian
from imtok.measures.named import DEFAULT, NO_MEASURE, Sections, sections
from imtok.measures.protocol import Protocol
from imtok.measures.spending import Spending


@dataclass(frozen=True)
class Settings:
    """Which metrics, and how.

    Attributes:
        measures: Names of files in ``configs/measure``; or sections of a config by name, each with ``_target_``.
        protocol: Of everything that an extractor sees.
        weights: "ema" or "raw": which weights are measured, part of every number's protocol id.
        reference: Statistics for rFID and pFID; None = the originals of the same pass.
        reference_name: What these statistics are of, by hash.
        cache: A folder for statistics of originals; None = they are computed in every pass.
        data: What the originals are, as a cache must know before it reads them; empty = nothing is cached.
        seed: Of perturbations and shuffles.
        skip_missing: Leave out what cannot be had, and say why; False = refuse it before the first image.
        untold: Measure images that lack what the tokenizer's condition reads, and say how many; False = refuse them.
        processes: That are going to share the images, where these are not started yet.
        condition: What a command told the tokenizer of all images, part of every number's protocol id.
        spending: How many tokens images get, part of every number's protocol id.

    Raises:
        InputError: If there is no measure of a name, or none is asked for.
    """

    measures: Sections | Sequence[str] = DEFAULT
    protocol: Protocol = field(default_factory=Protocol)
    weights: str = "ema"
    reference: FeatureGaussian | None = None
    reference_name: str = "originals of the same pass"
    cache: Path | None = None
    data: str = ""
    seed: int = 0
    skip_missing: bool = False
    untold: bool = False
    processes: int = 1
    condition: Mapping[str, Any] = field(default_factory=dict)
    spending: Spending = field(default_factory=Spending)

    def __post_init__(self) -> None:
        if not self.sections:
            raise InputError(NO_MEASURE)

    @cached_property
    def sections(self) -> Sections:
        """``_target_`` and arguments of each measure, by name."""
        return self.measures if isinstance(self.measures, Mapping) else sections(self.measures)
