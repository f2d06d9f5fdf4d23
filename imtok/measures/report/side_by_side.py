"""Reports side by side: their table, their page, and the folder that holds both."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from imtok.errors import InputError
from imtok.files import claim_inside, write_bytes
from imtok.measures.report.compare import Comparison, compare
from imtok.measures.report.comparison_page import Side, comparison_page
from imtok.measures.report.results import Report
from imtok.tables import print_whole
from imtok.text import terminal

COMPARISON, COMPARISON_PAGE = "comparison.md", "comparison.html"


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


def write_comparison(compared: Comparison, sides: Sequence[Side], folder: Path, console: Console) -> None:
    """Write ``comparison.html`` and ``comparison.md``, show what can be compared, and say where they are."""
    whole = comparison_page(compared, sides)
    write_bytes(folder / COMPARISON, compared.markdown().encode())  # first: by it the folder is known as one of these
    write_bytes(folder / COMPARISON_PAGE, whole.encode())
    show_comparison(compared, console)
    more = f"side by side, for a browser; beside it {COMPARISON}"
    console.print(f"  {terminal(str(folder / COMPARISON_PAGE))}  [dim]{more}[/dim]", soft_wrap=True)


def show_comparison(compared: Comparison, console: Console) -> None:
    """Print what can be compared, and in words what cannot."""
    print_whole(compared.table(), console)
    for line in compared.refused:
        console.print(terminal(line), soft_wrap=True)
