"""Work beside training: one thing at a time, in a thread, whose error comes up where somebody waits for it."""

import threading
import time
from collections.abc import Callable


class Writer:
    """Does one thing at a time, beside the steps of a run or between them.

    Args:
        beside: In a thread of its own; False = at once, and whoever starts it waits.

    Attributes:
        seconds: How long the last one took.
    """

    def __init__(self, beside: bool) -> None:
        self.beside = beside
        self.seconds = 0.0
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def has_failed(self) -> bool:
        """Whether an error waits to be raised."""
        return self._error is not None

    @property
    def is_at_work(self) -> bool:
        """Whether it is not through with what was started."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, work: Callable[[], object]) -> None:
        """Begin, once what was started before has ended; raises what went wrong with that."""
        error = self.end()
        if error is not None:
            raise error
        if self.beside:
            self._thread = threading.Thread(target=self._carry_out, args=(work,), name="checkpoint", daemon=True)
            self._thread.start()
        else:
            self._carry_out(work)

    def end(self) -> BaseException | None:
        """Wait for the end of what was started; says what went wrong, once."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        return error

    def _carry_out(self, work: Callable[[], object]) -> None:
        start = time.monotonic()
        try:
            work()
        except BaseException as error:  # raised where somebody waits
            self._error = error
        self.seconds = time.monotonic() - start
