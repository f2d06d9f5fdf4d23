"""``imtok verify``."""

from collections.abc import Sequence

from rich.console import Console

from imtok.export.command import run_verify


def run(arguments: Sequence[str]) -> None:
    """Check a store against its manifest."""
    run_verify(arguments, Console(highlight=False))
