"""``imtok compare``: puts reports side by side."""

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from imtok.command_line import MOMENT
from imtok.errors import InputError
from imtok.measures.report.arrays import read_pictures
from imtok.measures.report.compare import Comparison, compare, find_report, read_report
from imtok.measures.report.comparison_page import Side
from imtok.measures.report.side_by_side import claim_side_by_side, unique_names, write_comparison
from imtok.plain import read_words


def run(arguments: Sequence[str]) -> None:
    """Compare stored reports."""
    run_compare(arguments, Path("runs/compare") / time.strftime(MOMENT), Console(highlight=False))


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
