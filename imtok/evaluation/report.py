"""What an evaluation found, as JSON, Markdown, a picture and a table for the terminal."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from jaxtyping import UInt8
from rich.table import Table
from torch import Tensor

from imtok.evaluation.grid import draw_grid
from imtok.files import claim_output, new_folder, write_bytes, write_json

SCHEMA = 1
REPORT = "report.json"
_TITLES = {
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "usage": "codebook usage",
    "entropy_bits": "entropy (bits per slot)",
    "perplexity": "perplexity",
    "relative_perplexity": "perplexity / vocabulary",
    "frequent": "codes above 8 % of uniform use",
    "tokens_per_image": "tokens per image",
    "bits_per_pixel": "bits per pixel",
    "bits_per_pixel_entropy": "bits per pixel, by entropy",
}


@dataclass
class Pictures:
    """Images spread evenly over a data set of unknown length, and their reconstructions.

    Every ``stride``-th image is kept; whenever there are twice as many as wanted, every other one goes.

    Attributes:
        most: How many are wanted.
    """

    most: int
    keys: list[str] = field(default_factory=list)
    originals: list[UInt8[Tensor, "3 h w"]] = field(default_factory=list)
    reconstructions: list[UInt8[Tensor, "3 h w"]] = field(default_factory=list)
    stride: int = 1
    seen: int = 0

    def add(
        self, keys: list[str], originals: UInt8[Tensor, "b 3 h w"], reconstructions: UInt8[Tensor, "b 3 h w"]
    ) -> None:
        """Go through a batch."""
        for key, original, reconstruction in zip(keys, originals, reconstructions, strict=True):
            if self.most and self.seen % self.stride == 0:
                self.keys.append(key)
                self.originals.append(original.cpu().clone())
                self.reconstructions.append(reconstruction.cpu().clone())
                if len(self.keys) == 2 * self.most:
                    self._take(range(0, 2 * self.most, 2))
                    self.stride *= 2
            self.seen += 1

    def finish(self) -> "Pictures":
        """No more than ``most`` of them, evenly."""
        count = len(self.keys)
        if count > self.most:
            self._take([index * count // self.most for index in range(self.most)])
        return self

    def _take(self, chosen: Iterable[int]) -> None:
        chosen = list(chosen)
        self.keys = [self.keys[index] for index in chosen]
        self.originals = [self.originals[index] for index in chosen]
        self.reconstructions = [self.reconstructions[index] for index in chosen]


@dataclass(frozen=True)
class Report:
    """What an evaluation found.

    Attributes:
        images: How many images every number is over.
        image_size: Their height and width, in pixels.
        vocab_sizes: Number of ids of each slot.
        bits_per_token: Nominal.
        metrics: Values by name; over all slots where there are several.
        slots: The code statistics of each slot.
        conventions: How each metric is computed, by name: compare only numbers of the same convention.
        absent: Why a metric is not among ``metrics``, by name.
        bad: ``key: reason`` for every sample that could not be decoded; they are in no number.
        pictures: Originals and reconstructions to look at.
    """

    images: int
    image_size: tuple[int, int]
    vocab_sizes: tuple[int, ...]
    bits_per_token: float
    metrics: dict[str, float]
    slots: list[dict[str, float]]
    conventions: dict[str, str]
    absent: dict[str, str]
    bad: list[str]
    pictures: Pictures

    def values(self) -> dict[str, Any]:
        """Everything but the pictures, as plain values for JSON."""
        return {
            "schema": SCHEMA,
            "images": self.images,
            "image_size": list(self.image_size),
            "vocab_sizes": list(self.vocab_sizes),
            "bits_per_token": self.bits_per_token,
            "metrics": self.metrics,
            "slots": self.slots,
            "conventions": self.conventions,
            "absent": self.absent,
            "bad": self.bad,
            "versions": {package: _version(package) for package in ("imtok", "torch")},
        }


def write_report(report: Report, folder: Path) -> None:
    """Write ``report.json``, ``report.md`` and, if there are pictures, ``grid.png``.

    Args:
        report: What ``evaluate`` returned.
        folder: Appears whole or not at all; an earlier report in it is replaced.

    Raises:
        InputError: If the folder holds something else.
    """
    claim_output(folder, REPORT)
    with new_folder(folder) as aside:
        pictures = report.pictures
        if pictures.keys:
            draw_grid(pictures.originals, pictures.reconstructions).save(aside / "grid.png")
        write_bytes(aside / "report.md", _markdown(report).encode())
        write_json(aside / REPORT, report.values())


def table(report: Report) -> Table:
    """The metrics for the terminal; ``summary`` says what they are of."""
    rows = Table()
    rows.add_column("metric")
    rows.add_column("value", justify="right")
    for name, value in report.metrics.items():
        rows.add_row(_TITLES.get(name, name), _number(value))
    for name, reason in report.absent.items():
        rows.add_row(_TITLES.get(name, name), f"[dim]{reason}[/dim]")
    if report.bad:
        rows.add_row("[red]unreadable samples[/red]", f"[red]{len(report.bad)}[/red]")
    return rows


def _markdown(report: Report) -> str:
    lines = ["# Evaluation", "", f"{summary(report)}.", "", "| metric | value | convention |", "|---|---:|---|"]
    for name, value in report.metrics.items():
        lines.append(f"| {_TITLES.get(name, name)} | {_number(value)} | {report.conventions.get(name, '')} |")
    lines += [f"| {_TITLES.get(name, name)} | absent | {reason} |" for name, reason in report.absent.items()]
    if len(report.slots) > 1:
        names = list(report.slots[0])
        titles = " | ".join(_TITLES.get(name, name) for name in names)
        lines += ["", "## Slots", "", f"| slot | vocabulary | {titles} |", "|---:|---:|" + "---:|" * len(names)]
        for slot, (size, values) in enumerate(zip(report.vocab_sizes, report.slots, strict=True)):
            lines.append(f"| {slot} | {size} | " + " | ".join(_number(values[name]) for name in names) + " |")
    if report.pictures.keys:
        lines += ["", "## Originals over reconstructions", "", "![originals over reconstructions](grid.png)"]
    if report.bad:
        lines += ["", f"## Unreadable samples ({len(report.bad)}, in no number above)", ""]
        lines += [f"- `{sample}`" for sample in report.bad]
    return "\n".join(lines) + "\n"


def summary(report: Report) -> str:
    """What was measured, in a line."""
    height, width = report.image_size
    slots = " + ".join(str(size) for size in report.vocab_sizes)
    codes = f"{slots} codes, {report.bits_per_token:g} bits per token" if slots else "continuous latents"
    return f"{report.images:,} images of {width}x{height} pixels, {codes}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 or value == int(value) > 1 else f"{value:#.4g}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # run from a folder without installing
        return "unknown"
