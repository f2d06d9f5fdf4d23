"""The error that a user can mend: commands print it as one line and exit with code 2, without a traceback."""

from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """What the user gave cannot be used; the message names the file or key, the reason and the fix."""


class MissingWeightsError(InputError):
    """Nobody named a weight file, and the published one is nowhere on this machine."""


@contextmanager
def named(key: str) -> Iterator[None]:
    """Say of a refusal which key of the config it is about, unless it says that itself."""
    try:
        yield
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(f"{key}: {error}") from None
