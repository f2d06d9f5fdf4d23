"""How long a process waits for another one before it gives up: long until the first step is done, then less.

What one process does alone, and writing in shards, have a limit of their own: ``imtok.distributed.DISK``.
"""

from datetime import timedelta
from typing import Any

import torch.distributed as dist
from lightning import Callback, LightningModule, Trainer
from torch.distributed import distributed_c10d
from typing_extensions import override

from imtok.distributed import world_size
from imtok.training.hardware import Sharded
from imtok.training.steps import Task

STEP = timedelta(minutes=10)  # exchange within a step; a critic may be compiled in the middle of a run


class Patience(Callback):
    """Shortens the time limit of all exchange within steps, once the first step of this process has ended."""

    def __init__(self) -> None:
        self._shortened = False

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, Task)
        if pl_module.stepped and not self._shortened:
            self._shortened = True
            if world_size() > 1:
                limit_exchange(STEP, [dist.group.WORLD, *groups_of(trainer.strategy)])


def groups_of(strategy: Any) -> list[Any]:
    """The groups that gather and average shards, where a strategy has any."""
    return strategy.mesh.get_all_groups() if isinstance(strategy, Sharded) else []


def limit_exchange(limit: timedelta, groups: list[Any]) -> None:
    """Set how long an operation of these groups may take, from the next one on."""
    for group in groups:
        distributed_c10d._set_pg_timeout(limit, group)
