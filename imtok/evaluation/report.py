"""What an evaluation found, as JSON, Markdown, a picture and a table for the terminal."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from imtok.evaluation.grid import draw_grid
from imtok.evaluation.titles import is_stand_in, number, title
from imtok.files import claim_output, new_folder, write_bytes, write_json

SCHEMA = 2
REPORT = "report.json"


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
        protocol: What all numbers have in common: preset, crop, number and hash of images, which weights.
        ids: For each metric the ``id`` of its protocol and all that went into it. Numbers of different ids must not
            be compared.
        tables: Longer results by name: rate, pfid, language, ...
        arrays: Counts and ids for ``codes.npz``.
        drawings: PNG files by title.
        warnings: What to bear in mind.
        name: Of the tokenizer.
        tokenizer: Its hash; empty = not known.
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
    protocol: dict[str, Any] = field(default_factory=dict)
    ids: dict[str, dict[str, Any]] = field(default_factory=dict)
    tables: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    drawings: dict[str, bytes] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    name: str = ""
    tokenizer: str = ""

    def values(self) -> dict[str, Any]:
        """Everything but the pictures, as plain values for JSON."""
        return {
            "schema": SCHEMA,
            "name": self.name,
            "tokenizer_sha256": self.tokenizer,
            "images": self.images,
            "image_size": list(self.image_size),
            "vocab_sizes": list(self.vocab_sizes),
            "bits_per_token": self.bits_per_token,
            "metrics": self.metrics,
            "slots": self.slots,
            "conventions": self.conventions,
            "absent": self.absent,
            "stand_ins": [name for name in self.metrics if is_stand_in(name)],
            "protocol": self.protocol,
            "protocol_ids": self.ids,
            "tables": self.tables,
            "warnings": self.warnings,
            "bad": self.bad,
            "versions": {package: _version(package) for package in ("imtok", "torch")},
        }


def write_report(report: Report, folder: Path, more: Callable[[Path], None] | None = None) -> None:
    """Write ``report.json``, ``report.md`` and, if there are pictures, ``grid.png``.

    Args:
        report: What ``evaluate`` returned.
        folder: Appears whole or not at all; an earlier report in it is replaced.
        more: Writes further files into the folder that it is given.

    Raises:
        InputError: If the folder holds something else.
    """
    claim_output(folder, REPORT)
    with new_folder(folder) as aside:
        pictures = report.pictures
        if pictures.keys:
            draw_grid(pictures.originals, pictures.reconstructions).save(aside / "grid.png")
        write_bytes(aside / "report.md", markdown(report).encode())
        write_json(aside / REPORT, report.values())
        if more is not None:
            more(aside)


def table(report: Report) -> Table:
    """The metrics for the terminal; ``summary`` says what they are of."""
    rows = Table()
    rows.add_column("metric")
    rows.add_column("value", justify="right", overflow="fold")  # addresses are longer than a line
    for name, value in report.metrics.items():
        rows.add_row(title(name), number(value))
    for name, reason in report.absent.items():
        rows.add_row(title(name), f"[dim]{escape(reason)}[/dim]")
    if report.bad:
        rows.add_row("[red]unreadable samples[/red]", f"[red]{len(report.bad)}[/red]")
    return rows


def markdown(report: Report) -> str:
    """Everything but long tables, for people to read."""
    lines = ["# Evaluation", "", f"{summary(report)}."]
    if report.protocol:
        changed = "".join(f"; {override}" for override in report.protocol["overrides"])
        lines += ["", f"Protocol: {report.protocol['preset']}{changed}. Weights: {report.protocol['weights']}."]
    lines += ["", "| metric | value | convention |", "|---|---:|---|"]
    for name, value in report.metrics.items():
        if not is_stand_in(name):
            lines.append(f"| {title(name)} | {number(value)} | {report.conventions.get(name, '')} |")
    lines += [f"| {title(name)} | absent | {reason} |" for name, reason in report.absent.items()]
    if any(map(is_stand_in, report.metrics)):
        lines += [
            "",
            "## Not comparable to published numbers",
            "",
            "| stand-in | value | convention |",
            "|---|---:|---|",
        ]
        for name in filter(is_stand_in, report.metrics):
            lines.append(f"| {name} | {number(report.metrics[name])} | {report.conventions.get(name, '')} |")
    lines += [""] * bool(report.warnings) + [f"- {warning}" for warning in report.warnings]
    if report.ids:
        images = report.images
        lines += ["", "## Protocol ids", "", "| metric | images | id |", "|---|---:|---|"]
        lines += [f"| {title(name)} | {images} | `{facts['id']}` |" for name, facts in report.ids.items()]
    if len(report.slots) > 1:
        names = list(report.slots[0])
        titles = " | ".join(map(title, names))
        lines += ["", "## Slots", "", f"| slot | vocabulary | {titles} |", "|---:|---:|" + "---:|" * len(names)]
        for slot, (size, values) in enumerate(zip(report.vocab_sizes, report.slots, strict=True)):
            lines.append(f"| {slot} | {size} | " + " | ".join(number(values[name]) for name in names) + " |")
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


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # run from a folder without installing
        return "unknown"
