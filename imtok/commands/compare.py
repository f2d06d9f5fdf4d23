"""``imtok compare``."""

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from imtok.command_line import MOMENT
from imtok.measures.command import run_compare


def run(arguments: Sequence[str]) -> None:
    """Put reports side by side."""
    run_compare(arguments, Path("runs/compare") / time.strftime(MOMENT), Console(highlight=False))
