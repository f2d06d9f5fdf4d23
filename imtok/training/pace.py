"""Where the time of a step goes: data, a process's own work, and everything that is no step."""

import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

_SLOW = 1.5  # times the median of the other processes
_WAITS = 0.4  # share of a step that may go to waiting for data
_LEAST = 0.02  # seconds of a step; less is not worth a word
_ROWS = 2  # in a row before it is said
_PAGE = " (docs/troubleshooting.md#slow-data)"


@dataclass(frozen=True)
class Window:
    """Mean seconds of a step of one process, since the last row of the log.

    Attributes:
        step: All of it, without pictures, evaluations and checkpoints.
        waited: For the next batch.
        forward: From the batch to the first gradient, which no other process delays but under FSDP.
        host: The machine.
    """

    step: float
    waited: float
    forward: float
    host: str = ""


class Clock:
    """Takes the time of steps. It adds no synchronisation: events of a GPU are read when a step has ended.

    The calls follow each other in this order: ``begin``, ``half`` and ``aside`` for each micro-batch, ``settle`` after
    each step, and ``back`` when all callbacks have had their turn.

    Args:
        device: Where steps are computed.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._events: list[tuple[Any, Any]] = []
        self._first: Any = None
        self._aside: float | None = None
        self._start()
        self._back = self._begun  # when the last callback was done

    def begin(self) -> None:
        """A batch is here, and its forward pass begins."""
        self._waited += time.perf_counter() - self._back
        self._first = self._moment()

    def half(self) -> None:
        """The first gradients of this micro-batch are asked for; further calls change nothing."""
        if self._first is not None:
            self._events.append((self._first, self._moment()))
            self._first = None

    def settle(self) -> None:
        """A step has ended: the GPU has done all of it."""
        self._forward += sum(_seconds(*pair) for pair in self._events)
        self._events = []
        self._steps += 1

    def aside(self) -> None:
        """What follows belongs to no step."""
        self._aside = time.perf_counter()

    def back(self) -> None:
        """The next batch is asked for."""
        self._back = time.perf_counter()
        if self._aside is not None:
            self._others += self._back - self._aside
            self._aside = None

    def read(self) -> Window:
        """Means of the steps since the last reading; starts anew."""
        steps, now = max(1, self._steps), time.perf_counter()
        others = self._others + (now - self._aside if self._aside is not None else 0.0)
        window = Window(
            (now - self._begun - others) / steps, self._waited / steps, self._forward / steps, platform.node()
        )
        self._start()
        self._aside = self._begun if self._aside is not None else None
        return window

    def _start(self) -> None:
        self._begun = time.perf_counter()
        self._steps, self._waited, self._others, self._forward = 0, 0.0, 0.0, 0.0

    def _moment(self) -> Any:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


class Pace:
    """Says when steps wait for data, or all processes for one of them; once per incident.

    Example:
        >>> pace, steady, late = Pace(), Window(1.0, 0.0, 0.4), Window(1.0, 0.3, 0.9)
        >>> [pace.read([steady, steady, late]) for _ in range(3)][1][0][:68]
        'all processes wait for rank 2, which takes 1.20 s of a step (0.30 s '
    """

    def __init__(self) -> None:
        self._bad: dict[str, int] = {}

    def read(self, windows: Sequence[Window]) -> list[str]:
        """What is slow since this row, and was not before it.

        Args:
            windows: Of all ranks, in their order.
        """
        own = [window.waited + window.forward for window in windows]
        last = max(range(len(own)), key=own.__getitem__)
        usual = median([*own[:last], *own[last + 1 :]] or own)  # of the others, where there are any
        share = windows[last].waited / max(1e-9, windows[last].step)
        host = f" ({windows[last].host})" if windows[last].host else ""
        straggler = (
            f"all processes wait for rank {last}{host}, which takes {own[last]:.2f} s of a step "
            f"({windows[last].waited:.2f} s of it for data) where others take {usual:.2f} s"
        )
        hungry = (
            f"steps wait for data {share:.0%} of their time; raise trainer.workers (or say auto), or make the images "
            "smaller once (imtok pack resize=)"
        )
        found = [
            self._once(straggler, "straggler", own[last] > _SLOW * usual and own[last] - usual > _LEAST),
            self._once(hungry, "data", share > _WAITS and windows[last].waited > _LEAST),
        ]
        return [said for said in found if said]

    def _once(self, said: str, kind: str, bad: bool) -> str:
        self._bad[kind] = self._bad.get(kind, 0) + 1 if bad else 0
        return said + _PAGE if self._bad[kind] == _ROWS else ""


def _seconds(start: Any, end: Any) -> float:
    return end - start if isinstance(start, float) else start.elapsed_time(end) / 1e3
