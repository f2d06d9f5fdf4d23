"""What the jobs of a sweep came to: a table at its end, and a number for Hydra's sweepers."""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from imtok.measures.report.terms import term
from imtok.measures.report.titles import number
from imtok.tables import print_whole
from imtok.text import terminal

_NOTES = "IMTOK_SWEEP"  # a file that every job of a sweep adds a line to, whichever process it runs in
MAIN = ("psnr", "ssim", "usage")


class Job(NamedTuple):
    """A job of a sweep: its overrides, what was measured, and the folder of its run."""

    words: list[str]
    numbers: dict[str, float]
    folder: str


@contextmanager
def summed_up(console: Console) -> Iterator[None]:
    """Print a row for each job that ends inside the block, at its end and if it is cut short."""
    with tempfile.NamedTemporaryFile("r", encoding="utf-8") as notes:
        os.environ[_NOTES] = notes.name
        try:
            yield
        finally:
            del os.environ[_NOTES]
            jobs = [Job(**json.loads(line)) for line in notes]
            if jobs:
                print_whole(table(sorted(jobs, key=lambda job: (len(job.folder), job.folder))), console)


def note_job(words: Sequence[str], numbers: Mapping[str, float], folder: Path) -> None:
    """Note what a job of a sweep came to; outside a sweep nothing happens.

    Args:
        words: Its overrides.
        numbers: What was measured, by name.
        folder: Of the run.
    """
    path = os.environ.get(_NOTES)
    if path is not None:
        line = json.dumps(Job(list(words), dict(numbers), str(folder))._asdict())
        with Path(path).open("a", encoding="utf-8") as notes:
            notes.write(f"{line}\n")


def table(jobs: Sequence[Job]) -> Table:
    """The words in which jobs differ, their main numbers and their folders."""
    common = set(jobs[0].words).intersection(*(job.words for job in jobs)) if len(jobs) > 1 else set[str]()
    names = list(dict.fromkeys(name for job in jobs for name in job.numbers))
    made = Table("job", *(term(name).heading for name in names), "folder")
    for job in jobs:
        own = " ".join(word for word in job.words if word not in common)
        cells = [number(job.numbers[name]) if name in job.numbers else "" for name in names]
        made.add_row(terminal(own), *cells, terminal(job.folder))
    return made


def chosen(numbers: Mapping[str, float], best: str | None) -> tuple[float | None, dict[str, float]]:
    """The number that a sweeper is given, and those that the table shows.

    Args:
        numbers: Of the final report.
        best: ``trainer.best``; None = PSNR.
    """
    shown = [name for name in dict.fromkeys((best or MAIN[0], *MAIN)) if name in numbers]
    return numbers.get(best or MAIN[0]), {name: float(numbers[name]) for name in shown}
