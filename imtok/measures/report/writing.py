"""What an evaluation found, as files and for the terminal."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from imtok.files import claim_output, new_folder, write_bytes, write_json
from imtok.grid import draw_grid
from imtok.measures.pictures import Pictures
from imtok.measures.report.arrays import write_arrays
from imtok.measures.report.briefs import Brief, briefs
from imtok.measures.report.markdown import markdown
from imtok.measures.report.page import page
from imtok.measures.report.results import SCHEMA, Report, summary
from imtok.measures.report.titles import number, reasons
from imtok.tables import print_whole
from imtok.text import terminal

__all__ = [
    "BESIDE",
    "PAGE",
    "REPORT",
    "SCHEMA",
    "Pictures",
    "Report",
    "markdown",
    "show",
    "summary",
    "table",
    "write_report",
]

REPORT, PAGE = "report.json", "report.html"
BESIDE = "the report, for a browser; beside it report.md, report.json, grid.png, codes.npz, pictures.npz"


def write_report(report: Report, folder: Path) -> None:
    """Write ``report.html``, ``report.md``, ``report.json``, the arrays and, if there are pictures, ``grid.png``.

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
        write_bytes(aside / "report.md", markdown(report).encode())
        write_bytes(aside / PAGE, page(report).encode())
        write_arrays(report, aside)
        write_json(aside / REPORT, report.values())


def show(report: Report, console: Console, remark: str = "") -> None:
    """Print what was measured, on which data, every number, and why some are missing.

    Args:
        report: What ``evaluate`` returned.
        console: Where to.
        remark: Goes behind the line that says what was measured.
    """
    console.print(f"[bold]{summary(report)}{remark}[/bold]", soft_wrap=True)
    console.print(f"  data: {terminal(report.about()['Data'])}", soft_wrap=True)
    console.print(table(report))
    for brief in briefs(report):
        console.print(f"[bold]{terminal(brief.title)}[/bold]", soft_wrap=True)
        print_whole(_rows(brief), console)
        if brief.note:
            console.print(f"[dim]{terminal(brief.note)}[/dim]", soft_wrap=True)
    for line in reasons(report.absent, report.heading):
        console.print(f"  [dim]not measured:[/dim] {terminal(line)}", soft_wrap=True)


def table(report: Report) -> Table:
    """The metrics for the terminal; ``summary`` says what they are of."""
    rows = Table()
    rows.add_column("metric")
    rows.add_column("value", justify="right")
    for name, value in report.metrics.items():
        rows.add_row(terminal(report.heading(name)), number(value))
    for name in report.absent:
        rows.add_row(terminal(report.heading(name)), "[dim]not measured[/dim]")
    if report.bad:
        rows.add_row("[red]unreadable samples[/red]", f"[red]{len(report.bad)}[/red]")
    return rows


def _rows(brief: Brief) -> Table:
    """A short table for the terminal."""
    rows = Table()
    for column, name in enumerate(brief.head):
        rows.add_column(terminal(name), justify="right" if column else "left")
    for row in brief.rows:
        rows.add_row(*map(terminal, row))
    return rows
