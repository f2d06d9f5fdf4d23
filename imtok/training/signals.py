"""Signals as a flag that all ranks agree on. Lightning's own handler deadlocks two ranks and saves nothing."""

import os
import signal
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from lightning import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader
from typing_extensions import override

from imtok.distributed import world_size
from imtok.training.saving import Saving
from imtok.training.steps import Task

_WATCHED = [number for number in signal.Signals if number.name in ("SIGTERM", "SIGINT", "SIGUSR1")]


class Signals(Callback):
    """Ends a run between two steps, with one checkpoint, when any rank was asked to, by a signal or by a callback.

    SIGTERM and SIGUSR1 (which SLURM sends before the end of an allocation) and Ctrl-C set a flag. After each step all
    ranks take the greatest flag; if it is set they save and stop. A second signal stops at once. A checkpoint that
    could not be written ends the run here, too.

    Args:
        saving: Writes the checkpoint.

    Attributes:
        received: Number of the signal that ended the run; 0 = none did.
    """

    def __init__(self, saving: Saving) -> None:
        self.saving = saving
        self.received = 0
        self._flag = 0
        self._stop = False
        self._before: dict[int, Any] = {}

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for number in _WATCHED:
            self._before[number] = signal.signal(number, self._note)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._hand_back()  # what follows takes long and can be repeated: there a signal ends the process

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._hand_back()

    def _hand_back(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before = {}

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, Task)
        self._stop = self._stop or trainer.should_stop  # a callback may ask for it within a step
        if not pl_module.stepped:
            trainer.should_stop = False
            return
        flag, stop, failed = self._flag, int(self._stop), int(self.saving.writer.has_failed)
        if world_size() > 1:
            agreed = torch.tensor([flag, stop, failed], device=pl_module.device)
            dist.all_reduce(agreed, dist.ReduceOp.MAX)
            flag, stop, failed = agreed.tolist()
        if failed:
            self.saving.settle()
        self.received = flag or self.received
        if flag or stop:
            self.saving.save(trainer, pl_module)
            trainer.should_stop = True

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self._flag:
            os._exit(128 + number)
        self._flag = number


def spare_workers(loader: DataLoader[Any]) -> DataLoader[Any]:
    """Keep ``loader``'s workers alive when a signal goes to all processes, as SLURM and terminals send it.

    Without their data the step that is under way could not be finished. They end with the main process all the same.
    """
    loader.worker_init_fn = partial(_start_worker, loader.worker_init_fn)
    return loader


def _start_worker(before: Callable[[int], None] | None, worker: int) -> None:
    if before is not None:
        before(worker)
    for number in _WATCHED:
        signal.signal(number, signal.SIG_IGN)
