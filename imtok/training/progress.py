"""How a run is doing, on the terminal: one line that renews itself, or a line per interval where output is a file."""

import sys
import time
from collections.abc import Mapping
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from rich.progress import Progress
from typing_extensions import override

from imtok.bars import new_bar
from imtok.training.steps import Task

_KILOBYTES = sys.platform != "darwin"  # what the system counts memory in; bytes there


class Bar(Callback):
    """A progress bar with images per second, time left and the latest numbers of the log.

    Args:
        images_per_step: Images of a step, over all ranks.

    Attributes:
        latest: What the log showed last; :class:`imtok.training.logging.Log` sets it.
    """

    def __init__(self, images_per_step: int) -> None:
        self.images_per_step = images_per_step
        self.latest: dict[str, float] = {}
        self._progress: Progress | None = None
        self._task_id: Any = None
        self._start = (0.0, 0)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Task)
        self._start = (time.monotonic(), pl_module.step)
        if trainer.is_global_zero and sys.stderr.isatty():
            self._progress = new_bar()
            self._progress.start()
            self._task_id = self._progress.add_task(
                "training", total=pl_module.last_step, completed=pl_module.step, numbers=""
            )

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, Task)
        pl_module.clock.aside()  # the callbacks that follow are no part of a step
        if self._progress is not None and pl_module.stepped:
            self._progress.update(self._task_id, completed=pl_module.step, numbers=self._numbers(pl_module))

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def seconds_left(self, step: int, last_step: int) -> float:
        """Estimate from the mean since the start of this process, with pictures, evaluations and checkpoints."""
        done = max(1, step - self._start[1])
        return (last_step - step) * (time.monotonic() - self._start[0]) / done

    def left(self, step: int, last_step: int) -> str:
        """The same for a reader: ``2:05`` (minutes), ``1:02:05`` or ``3d 1:02:05``."""
        minutes, seconds = divmod(round(self.seconds_left(step, last_step)), 60)
        hours, minutes = divmod(minutes, 60)
        days, hours = divmod(hours, 24)
        if not (days or hours):
            return f"{minutes}:{seconds:02d}"
        return f"{f'{days}d ' if days else ''}{hours}:{minutes:02d}:{seconds:02d}"

    def _numbers(self, task: Task) -> str:
        speed = self.latest.get("images_per_second")
        shown = [] if speed is None else [f"{speed:.0f} images/s"]
        shown += [f"loss {self.latest['loss']:.3g}"] if "loss" in self.latest else []
        return "  ".join([*shown, codes_in_use(self.latest)]).rstrip()


def codes_in_use(row: Mapping[str, float]) -> str:
    """How much of the codebook is used, of what the tokens seen could use: ``usage 0.81 of 1.00  perplexity 95.2``.

    Empty where codes are not counted.
    """
    if "usage" not in row:
        return ""
    ceiling = row.get("usage_ceiling", 1.0)
    digits = 2 if ceiling >= 0.1 else 4
    return f"usage {row['usage']:.{digits}f} of {ceiling:.{digits}f}  perplexity {row['perplexity']:.1f}"


def reserved_gb() -> dict[str, float]:
    """What torch holds of the memory of a GPU at most, as a column; none on a CPU."""
    most = torch.cuda.max_memory_reserved() if torch.cuda.is_available() else 0
    return {"reserved_gb": most / 1e9} if most else {}


def memory_gb() -> float:
    """The most memory that this process has used so far: of its GPU, or of the machine where it computes on the CPU."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 1e9
    import resource  # not on Windows, where this module is imported all the same

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most * (1024 if _KILOBYTES else 1) / 1e9
