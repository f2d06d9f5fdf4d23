"""What can be set about an evaluation; the config's schema is made of these."""

from dataclasses import dataclass, field
from typing import Any

from imtok.measures.settings import DEFAULT, check_metrics


@dataclass
class PerturbationConfig:
    """The grid of pFID.

    Attributes:
        alphas: Parts of the tokens that are drawn anew.
        deltas: From how many neighbours.
    """

    alphas: list[float] = field(default_factory=lambda: [0.9, 0.8, 0.7, 0.6, 0.5])
    deltas: list[int] = field(default_factory=lambda: [200, 280, 360])


@dataclass
class MeasureConfig:
    """Which metrics and how; see :class:`imtok.measures.settings.Settings`.

    Attributes:
        metrics: Their names.
        n: So many images, evenly over the data set; None = all.
        weights: "ema", or "raw": those of the run's last checkpoint.
        reference: An npz with ``mu`` and ``sigma``; None = the originals of the same pass.
        cache: A folder for statistics of originals.
        pfid: The grid of pFID.
        lengths: Numbers of tokens for "rate".
        length_target: PSNR in dB for "length".
        backbone: Weight file of LPIPS.
        dino: Weight file of DINOv2.
        seed: Of perturbations and shuffles.
        skip_missing: Leave out metrics that cannot be had; False = refuse them.
    """

    metrics: list[str] = field(default_factory=lambda: list(DEFAULT))
    n: int | None = None
    weights: str = "ema"
    reference: str | None = None
    cache: str | None = None
    pfid: PerturbationConfig = field(default_factory=PerturbationConfig)
    lengths: list[int] | None = None
    length_target: float = 25.0
    backbone: str | None = None
    dino: str | None = None
    seed: int = 0
    skip_missing: bool = False

    def check(self) -> list[str]:
        """What is out of range, one line each."""
        problems: list[str] = []
        unknown = check_metrics(self.metrics)
        if unknown:
            problems.append(unknown)
        if self.n is not None and self.n < 1:
            problems.append(f"n must be at least 1 image or null (all), got {self.n}")
        if self.weights not in ("ema", "raw"):
            problems.append(f"weights must be ema or raw, got {self.weights}")
        if not self.pfid.alphas or not all(0 <= alpha <= 1 for alpha in self.pfid.alphas):
            problems.append(f"pfid.alphas must be some fractions in [0, 1], got {list(self.pfid.alphas)}")
        if not self.pfid.deltas or not all(delta >= 1 for delta in self.pfid.deltas):
            problems.append(f"pfid.deltas must be some numbers of at least 1, got {list(self.pfid.deltas)}")
        if self.lengths is not None and not all(length >= 1 for length in self.lengths):
            problems.append(f"lengths must be some numbers of at least 1 token or null, got {list(self.lengths)}")
        if self.seed < 0:
            problems.append(f"seed must not be negative, got {self.seed}")
        return problems


@dataclass
class ScoreConfig:
    """Generated images and what to hold them against.

    Attributes:
        images: A folder, or an npz with ``arr_0``.
        reference: The same, or an npz with ``mu`` and ``sigma``.
        protocol: A :class:`imtok.measures.protocol.Protocol`.
        extractor: A :class:`imtok.extractors.base.Extractor` in place of the protocol's; None = that.
        out: The folder of ``score.json``.
        batch_size: Images at a time.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: CPU threads for torch; None = torch's choice.
    """

    images: str = "???"
    reference: str = "???"
    protocol: Any = "???"
    extractor: Any = None
    out: str | None = None
    batch_size: int = 64
    device: str = "auto"
    threads: int | None = None

    def check(self) -> list[str]:
        """What is out of range, one line each."""
        values = {"batch_size": self.batch_size, "threads": self.threads}
        return [f"{name} must be at least 1, got {v}" for name, v in values.items() if v is not None and v < 1]
