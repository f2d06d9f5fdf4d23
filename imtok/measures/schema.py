"""What can be set about an evaluation; the config's schema is made of these."""

from dataclasses import dataclass
from typing import Any

from imtok.measures.named import Sections, names

NO_MEASURE = f"metrics must name at least one of {', '.join(names())}"


@dataclass
class MeasureConfig:
    """Which metrics and how; see :class:`imtok.measures.settings.Settings`.

    Attributes:
        measure: A section with ``_target_`` for each, by name.
        n: So many images, evenly over the data set; None = all.
        weights: "ema", or "raw": those of the run's last checkpoint.
        reference: An npz with ``mu`` and ``sigma``; None = the originals of the same pass.
        cache: A folder for statistics of originals.
        seed: Of perturbations and shuffles.
        skip_missing: Leave out metrics that cannot be had; False = refuse them.
    """

    measure: Any = None
    n: int | None = None
    weights: str = "ema"
    reference: str | None = None
    cache: str | None = None
    seed: int = 0
    skip_missing: bool = False

    @property
    def measures(self) -> Sections:
        """Those of the section that were not taken out by null."""
        return {name: section for name, section in (self.measure or {}).items() if section is not None}

    def check(self) -> list[str]:
        """What is out of range, one line each."""
        problems: list[str] = [] if self.measures else [NO_MEASURE]
        if self.n is not None and self.n < 1:
            problems.append(f"n must be at least 1 image or null (all), got {self.n}")
        if self.weights not in ("ema", "raw"):
            problems.append(f"weights must be ema or raw, got {self.weights}")
        if self.seed < 0:
            problems.append(f"seed must not be negative, got {self.seed}")
        return problems
