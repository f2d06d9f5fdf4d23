"""``imtok check``."""

import sys
from collections.abc import Sequence

from imtok.data.command import run_check


def run(arguments: Sequence[str]) -> None:
    """Count a data set, and name its faults."""
    sys.exit(run_check(arguments))
