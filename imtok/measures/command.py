"""What ``imtok eval``, ``imtok compare`` and ``imtok score`` do once their config is read."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from imtok import bars
from imtok.data.images import ImageSet, Subset
from imtok.data.stream import ImageStream
from imtok.errors import InputError
from imtok.files import claim_inside, sha256, write_bytes, write_json
from imtok.measures.choose import missing, refuse
from imtok.measures.generated import score
from imtok.measures.protocol import Protocol
from imtok.measures.report.arrays import read_pictures
from imtok.measures.report.compare import Comparison, compare, find_report, read_report
from imtok.measures.report.comparison_page import Side, comparison_page
from imtok.measures.report.origin import now
from imtok.measures.report.results import Report, package_version
from imtok.measures.report.titles import number, reasons
from imtok.measures.report.writing import BESIDE, PAGE, print_whole, show, write_report
from imtok.measures.schema import MeasureConfig, ScoreConfig
from imtok.measures.settings import Settings
from imtok.measures.stored import load_statistics
from imtok.plain import read_words
from imtok.text import terminal
from imtok.tokenizer import Tokenizer
from imtok.types import Batch

COMPARISON, COMPARISON_PAGE = "comparison.md", "comparison.html"
SCORE = "score.json"


def make_settings(config: MeasureConfig, protocol: Protocol, images: ImageSet | ImageStream) -> Settings:
    """The settings that a config describes.

    Raises:
        InputError: If the reference cannot be read.
    """
    count = len(images) if isinstance(images, ImageSet) else 0
    settings = replace(
        _asked(config, protocol),
        cache=Path(config.cache) if config.cache is not None else None,
        data=f"{images.digest} {count} {images.image_size}" if isinstance(images, ImageSet) else "",
    )
    if config.reference is None:
        return settings
    reference = Path(config.reference)
    return replace(settings, reference=load_statistics(reference), reference_name=sha256(reference)[:16])


def _asked(config: MeasureConfig, protocol: Protocol) -> Settings:
    """The settings as far as they do not depend on the images."""
    return Settings(
        measures=config.measures,
        protocol=protocol,
        weights=config.weights,
        seed=config.seed,
        skip_missing=config.skip_missing,
    )


def prepare(images: ImageSet | ImageStream, protocol: Protocol, n: int | None) -> ImageSet | ImageStream:
    """The images as a protocol crops them, and no more than ``n`` of them, evenly over a list; of a stream all."""
    if isinstance(images, ImageStream):
        if n is not None:
            raise InputError("n must be null for a stream of shards, which is read from end to end")
        images.transform = protocol.transform(images.image_size)
        return images
    source = images.source
    if n is not None and n < len(source):
        source = Subset(source, np.arange(n, dtype=np.int64) * len(source) // n)
    return ImageSet(source, protocol.transform(images.image_size), captioned=images.captioned)


def watched(loader: Iterable[Batch], total: int | None, name: str) -> Iterator[Batch]:
    """The batches, with a progress bar on a terminal."""
    return bars.watched(loader, total, name, lambda batch: len(batch.image) + len(batch.bad))


def require_metrics(config: MeasureConfig, protocol: Protocol, tokenizer: Tokenizer, side: int) -> None:
    """Refuse what cannot be had of this tokenizer, before others are measured for hours.

    Raises:
        InputError: That names the metrics and the reasons.
    """
    if not config.skip_missing:
        refuse(missing(_asked(config, protocol), tokenizer, (side, side)))


def write_and_show(report: Report, folder: Path, console: Console) -> None:
    """Write a report and its page, print it, and say where it is."""
    write_report(report, folder)
    show(report, console)
    console.print(f"  {terminal(str(folder / PAGE))}  [dim]{BESIDE}[/dim]", soft_wrap=True)


def unique_names(sources: Sequence[str]) -> list[str]:
    """A short name for each tokenizer: the last part of its path, or as many as make them differ."""
    for parts in range(1, 12):
        names = ["_".join(Path(source).absolute().parts[1:][-parts:]) for source in sources]
        if len(set(names)) == len(names):
            return names
    raise InputError(f"one and the same is named twice among {', '.join(sources)}; name each once")


def claim_side_by_side(folder: Path) -> None:
    """Check that reports of several tokenizers may be written below ``folder``."""
    claim_inside(folder, COMPARISON)


def side_by_side(reports: Sequence[Report], folder: Path, console: Console) -> None:
    """Compare reports that were made together; see :func:`write_comparison`."""
    sides = [Side(report.name, report.values(), report.pictures) for report in reports]
    write_comparison(compare([side.values for side in sides], [side.name for side in sides]), sides, folder, console)


def run_compare(arguments: Sequence[str], folder: Path, console: Console) -> None:
    """Compare stored reports; see :func:`write_comparison`.

    Args:
        arguments: Words of the command line.
        folder: Where the comparison goes unless they say ``out=DIR``.
        console: Where it is shown.

    Raises:
        InputError: If there are fewer than two, one cannot be read, nothing in them is comparable, or the folder
            cannot be used.
    """
    words = read_words("compare", arguments)
    if "out" in words.keys:
        folder = Path(words.keys["out"])
    claim_side_by_side(folder)
    compared = compare_folders(words.paths)
    names = unique_names(words.paths)
    sides = [
        Side(name, read_report(source), read_pictures(find_report(source).parent))
        for name, source in zip(names, words.paths, strict=True)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    write_comparison(compared, sides, folder, console)


def write_comparison(compared: Comparison, sides: Sequence[Side], folder: Path, console: Console) -> None:
    """Write ``comparison.html`` and ``comparison.md``, show what can be compared, and say where they are."""
    whole = comparison_page(compared, sides)
    write_bytes(folder / COMPARISON, compared.markdown().encode())  # first: by it the folder is known as one of these
    write_bytes(folder / COMPARISON_PAGE, whole.encode())
    show_comparison(compared, console)
    more = f"side by side, for a browser; beside it {COMPARISON}"
    console.print(f"  {terminal(str(folder / COMPARISON_PAGE))}  [dim]{more}[/dim]", soft_wrap=True)


def compare_folders(sources: Sequence[str]) -> Comparison:
    """Compare stored reports.

    Raises:
        InputError: If there are fewer than two, one cannot be read, or nothing in them is comparable.
    """
    compared = compare([read_report(source) for source in sources], unique_names(sources))
    if not compared.comparable:
        lines = compared.refused or ["none of them has a metric of another"]
        raise InputError("\n  ".join(["no number of these reports is comparable:", *lines]))
    return compared


def show_comparison(compared: Comparison, console: Console) -> None:
    """Print what can be compared, and in words what cannot."""
    print_whole(compared.table(), console)
    for line in compared.refused:
        console.print(terminal(line), soft_wrap=True)


def run_score(config: ScoreConfig, protocol: Protocol, folder: Path, device: torch.device, command: str) -> None:
    """Measure generated images, write ``score.json`` and show it.

    Args:
        config: Images, reference and how many at a time.
        protocol: Extractor and its resizer.
        folder: Where ``score.json`` goes; it holds no other output.
        device: Where to compute.
        command: What makes it again.

    Raises:
        InputError: If images or reference cannot be read, or the weights cannot be had.
    """
    found = score(Path(config.images), Path(config.reference), protocol, device, config.batch_size)
    rows, console = (
        write_score(found | score_origin(config.images, config.reference, command), folder),
        Console(highlight=False),
    )
    console.print(f"[bold]{found['images']} images, protocol {found['protocol']['preset']}[/bold]")
    console.print(rows)
    for line in reasons(found["absent"]):
        console.print(f"  [dim]not measured:[/dim] {terminal(line)}", soft_wrap=True)
    console.print(f"  {folder}/{SCORE}", soft_wrap=True, markup=False)


def score_origin(images: str, reference: str, command: str) -> dict[str, Any]:
    """What a score is of, for ``score.json``: paths as they were given, the time in UTC, versions and the command."""
    versions = {package: package_version(package) for package in ("imtok", "torch")}
    return {"data": images, "reference": reference, "when": now(), "command": command, "versions": versions}


def write_score(found: dict[str, Any], folder: Path) -> Table:
    """Write ``score.json``; returns what to show."""
    claim_inside(folder, SCORE)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / SCORE, found)
    rows = Table()
    rows.add_column("metric")
    rows.add_column("value", justify="right")
    for name, value in found["metrics"].items():
        rows.add_row(name, number(value))
    for name in found["absent"]:
        rows.add_row(name, "[dim]not measured[/dim]")
    return rows
