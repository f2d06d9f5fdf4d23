"""A progress bar with the time that is left, on a terminal; nothing where there is none."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Item = TypeVar("Item")


def new_bar() -> Progress:
    """A bar on stderr, not shown yet. Each task has a name, and a text ``numbers`` at the end of its line."""
    done = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn())
    left = (TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[numbers]}"))
    return Progress(*done, *left, console=Console(stderr=True))


@contextmanager
def bar(name: str) -> Iterator[Callable[[int, int | None], None]]:
    """Something to call with how many more are done, and how many there are; None = nobody knows.

    Args:
        name: What is done.
    """
    if not sys.stderr.isatty():
        yield lambda count, total: None
        return
    with new_bar() as progress:
        task = progress.add_task(name, total=None, numbers="")

        def advance(count: int, total: int | None) -> None:
            progress.update(task, advance=count, total=total)

        yield advance


def watched(items: Iterable[Item], total: int | None, name: str, size: Callable[[Item], int]) -> Iterator[Item]:
    """The items, with a bar.

    Args:
        items: What is gone through.
        total: How many there are of what ``size`` counts; None = nobody knows.
        name: What is done with them.
        size: How many an item stands for, once it is done.
    """
    with bar(name) as advance:
        for item in items:
            yield item
            advance(size(item), total)
