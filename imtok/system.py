"""What differs among systems: Windows, where the library alone works, and how Linux keeps memory."""

import ctypes
import os
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


_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # of mallopt(3)
_KEPT = 2**31 - 1  # bytes


def keep_memory() -> bool:
    """Let glibc keep the memory of freed tensors for the next ones; commands call it once, before any work.

    By default it maps each large block anew and gives it back as soon as it is free. A net on the CPU then has every
    page of its activations faulted in again at every layer, which can take longer than the net itself. Nothing is
    changed where the environment sets ``MALLOC_MMAP_THRESHOLD_`` or ``MALLOC_TRIM_THRESHOLD_``, and on systems without
    glibc.

    Returns:
        Whether it was changed.
    """
    if not sys.platform.startswith("linux") or {"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"} & set(os.environ):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):  # musl knows no mallopt
        return False
    done = [library.mallopt(option, _KEPT) for option in (_MMAP_THRESHOLD, _TRIM_THRESHOLD)]
    return all(done)
