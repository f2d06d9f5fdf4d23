"""Linux and macOS, which commands need, and Windows, where the library alone works."""

import sys

from imtok.errors import InputError


def on_windows() -> bool:
    """Whether this is Windows, without WSL."""
    return sys.platform == "win32"


def require_posix() -> None:
    """Refuse Windows, which has neither the locks of files nor the signals that commands rely on.

    Raises:
        InputError: On Windows.
    """
    if on_windows():
        raise InputError(
            "the commands of imtok run on Linux and macOS, and not on Windows; use WSL "
            "(https://learn.microsoft.com/windows/wsl), which is Linux; in Python, Tokenizer.load works on Windows too"
        )


def refuse_windows() -> None:
    """End a command on Windows with one line and exit code 2."""
    try:
        require_posix()
    except InputError as error:
        sys.stderr.write(f"imtok: {error}\n")
        sys.exit(2)
