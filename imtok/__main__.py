"""``imtok`` and ``python -m imtok``."""

import sys

from imtok.system import refuse_windows


def main() -> None:
    """Run ``imtok COMMAND ...``; where commands do not run, it is said before torch and the like are imported."""
    if sys.argv[1:2] not in ([], ["-h"], ["--help"], ["--version"], ["--completion"], ["--complete"]):
        refuse_windows()
    from imtok.cli import main as run

    run()


if __name__ == "__main__":
    main()
