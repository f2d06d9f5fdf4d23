"""``imtok check``: counts a data set, and names its faults."""

import sys
from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.table import Column, Table

from imtok.data.check import CheckSettings, check
from imtok.data.inspect import Findings
from imtok.errors import InputError
from imtok.plain import PLAIN, read_words
from imtok.tables import print_whole
from imtok.text import terminal

SHOWN = 20  # faults that are printed


def run(arguments: Sequence[str]) -> None:
    """Count a data set, and name its faults."""
    sys.exit(run_check(arguments))


def run_check(arguments: Sequence[str]) -> int:
    """Check the path that a command line names, and say what is there; returns 1 if something is wrong, else 0.

    Raises:
        InputError: If the arguments are others, or there is nothing to look at.
    """
    given = read_words("check", arguments)
    workers, data = given.keys.get("workers", "0"), given.keys.get("data", "webdataset")
    if not workers.isdigit():
        raise InputError(f"workers must be a number of processes, got {workers!r}; {PLAIN['check'].takes}")
    if data not in ("tars", "webdataset"):
        raise InputError(f"data must be webdataset or tars, got {data}; {PLAIN['check'].takes}")
    labels = given.keys.get("data.labels", "folder" if data == "tars" else None)
    if labels is not None and (data != "tars" or labels not in ("folder", "archive", "member")):
        raise InputError(f"data.labels must be folder, archive or member, and of data=tars; {PLAIN['check'].takes}")
    image, caption, label = (given.keys.get(f"data.{name}") for name in ("image", "caption", "label"))
    findings = check(given.paths[0], int(workers), CheckSettings(image, caption, label, labels))
    _show(findings, Console(highlight=False))
    return 0 if findings.good else 1


def _show(findings: Findings, console: Console) -> None:
    """Print what was found: a table, then every fault by name."""
    rows = Table(show_header=False)
    rows.add_column()
    rows.add_column(justify="right")
    rows.add_row("images", str(findings.images))
    rows.add_row("broken", str(len(findings.broken)))
    rows.add_row("megabytes", f"{findings.bytes / 1e6:.1f}")
    rows.add_row("formats", _counts(findings.formats))
    rows.add_row("modes", _counts(findings.modes))
    for name, sides in (("short side", findings.short), ("long side", findings.long)):
        if sides:
            rows.add_row(f"{name} (px): least, median, most", " ".join(map(str, _spread(sides))))
    labels = {label: count for label, count in findings.labels.items() if label >= 0}
    rows.add_row("classes", str(len(findings.classes) or len(labels)))
    if labels:
        rows.add_row("images per class: least, most", f"{min(labels.values())} {max(labels.values())}")
    rows.add_row("without a class", str(findings.labels[-1]))
    rows.add_row("captions", str(findings.captions))
    print_whole(rows, console)
    if findings.classes and labels:
        print_whole(_class_table(findings.classes, labels), console)
    for remark in findings.remarks:
        console.print(terminal(remark), soft_wrap=True)
    lines = [*findings.faults, *(f"{key}: {reason}" for key, reason in findings.broken.items())]
    for line in lines[:SHOWN]:
        console.print(terminal(line), soft_wrap=True)
    if len(lines) > SHOWN:
        console.print(f"and {len(lines) - SHOWN} more", soft_wrap=True)
    count = f"{len(lines)} fault{'s' * (len(lines) > 1)}"
    console.print(f"[bold]{'nothing is wrong' if findings.good else count}[/bold]")


def _class_table(classes: list[str], labels: dict[int, int]) -> Table:
    rows = Table(Column("label", justify="right"), "class", Column("images", justify="right"))
    shown = (
        range(len(classes)) if len(classes) <= SHOWN else [*range(SHOWN // 2), *range(len(classes) - 3, len(classes))]
    )
    last = -1
    for label in shown:
        if label != last + 1:
            rows.add_row("...", "", "")
        rows.add_row(str(label), terminal(classes[label]), str(labels.get(label, 0)))
        last = label
    return rows


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "none"


def _spread(sides: Counter[int]) -> tuple[int, int, int]:
    """Least, median and most."""
    before, half = 0, (sides.total() + 1) // 2
    for side in sorted(sides):
        before += sides[side]
        if before >= half:
            return min(sides), side, max(sides)
    raise ValueError("sides must be at least one, got none")
