"""Tables on a terminal, none of whose numbers is cut."""

from rich.console import Console
from rich.table import Table


def print_whole(rows: Table, console: Console) -> None:
    """Print a table as wide as it is: in a narrow terminal or a pipe, cells would be cut."""
    whole = console.measure(rows, options=console.options.update(max_width=10_000)).maximum
    console.width, before = max(console.width, whole), console.width
    console.print(rows)
    console.width = before
