"""How long a run will take on this machine, in a line soon after its start."""

import logging
import time
from typing import Any

from lightning import Callback, LightningModule, Trainer
from typing_extensions import override

from imtok.training.steps import Task

log = logging.getLogger(__name__)

_STEPS = 11  # of which the first, which is slower, does not count
_PATIENCE = (10.0, 60.0)  # seconds after which two steps have to do, and one


class Estimate(Callback):
    """Says what is left of a run, by its measured steps: after eleven of them, or sooner where they are slow.

    It is said again soon after the tokenizer begins to look at a critic, since from there on steps take longer. Later
    pictures, evaluations and checkpoints come on top. Nothing is computed, so no number of the run changes.

    Args:
        device: What the run computes on, in words.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self._start = (0.0, 0)  # time and step
        self._warm: tuple[float, int] | None = None
        self._said = False

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Task)
        self._measure_from(pl_module.step)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, Task)
        if not pl_module.stepped or not trainer.is_global_zero:
            return
        step, last, now = pl_module.step, pl_module.last_step, time.monotonic()
        slower = pl_module.slower_from
        if step == slower:
            self._measure_from(step)
        elif not self._said and step < last and self._is_due(step, last, now):
            begin = self._warm or self._start
            log.info("%s", left_in_words((now - begin[0]) / (step - begin[1]), (step, last), self.device, slower))
            self._said = True
        elif self._warm is None:
            self._warm = (now, step)

    def _measure_from(self, step: int) -> None:
        self._start, self._warm, self._said = (time.monotonic(), step), None, False

    def _is_due(self, step: int, last: int, now: float) -> bool:
        done, waited = step - self._start[1], now - self._start[0]
        soon = done >= _STEPS or (done >= 2 and waited >= _PATIENCE[0]) or waited >= _PATIENCE[1]
        return soon or step + 1 == last


def left_in_words(seconds: float, steps: tuple[int, int], device: str, slower: int | None = None) -> str:
    """What is left of a run, in a line.

    Args:
        seconds: Per step.
        steps: Those done, and the last one.
        device: What the run computes on.
        slower: The step from which on steps take longer; None = they do not.

    Example:
        >>> left_in_words(0.61, (11, 20_000), "cpu with 1 thread", slower=11_000)[:58]
        'about 3 h 23 min left on this machine (cpu with 1 thread):'
        >>> left_in_words(2.0, (1, 2), "cpu with 1 thread")
        'about 2 s left on this machine (cpu with 1 thread): 1 step of 2 s'
    """
    step, last = steps
    number = last - step
    each = f"{seconds:.2g}" if seconds < 10 else f"{seconds:.0f}"
    todo = f"{number:,} step{'s' * (number > 1)} of {each} s"
    line = f"about {duration(number * seconds)} left on this machine ({device}): {todo}"
    if slower is not None and step < slower < last:
        line += f"; steps take longer from step {slower:,} on, when the critic is looked at"
    return line


def duration(seconds: float) -> str:
    """A time for a reader, in at most two units.

    Example:
        >>> [duration(seconds) for seconds in (4.4, 100, 12_180, 200_000)]
        ['4 s', '2 min', '3 h 23 min', '2 days 8 h']
    """
    if seconds < 99.5:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days} days {hours} h"
