"""When a run is saved, and when it is put back."""

import logging
import time
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from imtok.data.order.position import StreamPosition
from imtok.distributed import DISK, from_main, group_beside, rank
from imtok.errors import InputError
from imtok.training import checkpoints
from imtok.training.callbacks import Guests
from imtok.training.checkpoints import Checkpoint
from imtok.training.ema import EMA
from imtok.training.flags import is_fast
from imtok.training.loggers import Loggers
from imtok.training.records import Events
from imtok.training.sharded_saving import save_sharded
from imtok.training.shards import Shards
from imtok.training.states import in_shards, restore_optimizers, restore_shards, take, take_shards
from imtok.training.steps import Task
from imtok.training.writer import Writer

log = logging.getLogger(__name__)


class Saving(Callback):
    """Writes a checkpoint every so many steps and at the end, and restores one at the start.

    The state is copied between two steps. It is written then, too, or beside the steps that follow: one checkpoint at
    a time, and a run ends when its last one is written.

    Args:
        ema: The averaged weights.
        folder: Where the checkpoints go.
        every: One is written at each multiple of each of these numbers of steps; 0 = at none.
        keep: How many stay.
        about: What each manifest says besides: config and data.
        events: Where each checkpoint is noted.
        resume: What to go on from; None = start at step 0.
        stream: Which shards of a stream were begun; None for images that can be read in any order.
        mirror: Loggers, which have all rows up to a step on the disk before its checkpoint is written.
        guests: The callbacks of the config, whose states are saved as well.
        beside: Whether to write beside the steps.

    Attributes:
        writer: Writes what was copied.
    """

    def __init__(
        self,
        ema: EMA[Any],
        folder: Path,
        every: tuple[int, ...],
        keep: int,
        about: dict[str, Any],
        events: Events,
        resume: Checkpoint | None = None,
        stream: StreamPosition | None = None,
        mirror: Loggers | None = None,
        guests: Guests | None = None,
        beside: bool = False,
    ) -> None:
        self.ema = ema
        self.folder = folder
        self.every = every
        self.keep = keep
        self.about = about
        self.events = events
        self.resume = resume
        self.stream = stream
        self.mirror = mirror
        self.guests = guests
        self.saved_step = resume.step if resume else -1
        self.writer = Writer(beside)
        self.group: Any = None  # of the ranks that write together, where weights lie in shards
        self._begun: dict[str, Any] | None = None  # what is to be noted of the checkpoint that is being written

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Task)
        if in_shards(trainer.strategy):
            self.group = group_beside("checkpoints", DISK)
            if self.resume is not None and self.resume.shards is not None:
                self._verify(self.resume.shards)
                restore_shards(self.resume, pl_module, self.ema, self.group)

    def _verify(self, shards: Shards) -> None:
        """Compare the hashes, each rank some; what is damaged is put aside, so that the run can go back by itself."""
        try:
            shards.verify(self.group)
        except InputError as error:
            if shards.folder.parent.resolve() != self.folder.resolve():
                raise
            renamed = shards.folder.with_name(f"{shards.folder.name}.damaged")
            from_main(lambda: shards.folder.rename(renamed))
            raise InputError(
                f"{error}; it is called {renamed.name} now: start again with ckpt=last to go back"
            ) from None

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Task)
        if self.resume is not None:
            restore_optimizers(self.resume, pl_module, self.about["config"], self.group)
            pl_module.meters.load_state_dicts(self.resume.state["meters"], pl_module.device)
            self.resume.forget()
            self.resume = None

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, Task)
        if self.stream is not None:
            self.stream.note(batch)
        self._note_written(not self.writer.is_at_work and not self.writer.has_failed)
        step = pl_module.step
        due = step == pl_module.last_step or any(every and step % every == 0 for every in self.every)
        if pl_module.stepped and due:
            self.save(trainer, pl_module)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A flag of Lightning's may have ended the run between two checkpoints."""
        assert isinstance(pl_module, Task)
        if pl_module.stepped and not is_fast(trainer):
            self.save(trainer, pl_module)
        self.settle()

    def save(self, trainer: Trainer, task: Task) -> None:
        """Begin a checkpoint of this moment, between two steps, unless there is one already.

        Raises:
            InputError: If the one before it could not be written.
        """
        if self.saved_step == task.step:
            return
        start = time.monotonic()
        self.settle()
        if self.mirror is not None:
            self.mirror.flush()
        if self.group is not None:
            checkpoint, tensors = take_shards(task, self.ema, self.about)
        else:
            checkpoint, tensors = take(task, self.ema, self.about), dict[str, Tensor]()
        if self.stream is not None:
            checkpoint.state["stream"] = self.stream.state()
        states = self.guests.state() if self.guests is not None else {}
        if states:
            checkpoint.state["callbacks"] = states
        if self.group is not None:
            self.writer.start(lambda: save_sharded(checkpoint, tensors, self.folder, self.keep, self.group))
        elif rank() == 0:
            self.writer.start(lambda: checkpoints.save(checkpoint, self.folder, self.keep))
        self._begun = {"step": task.step, "seconds_blocked": time.monotonic() - start}
        self.saved_step = task.step
        if not self.writer.beside:
            self.settle()

    def settle(self) -> None:
        """Wait until the checkpoint that was begun is written. Every rank must call it.

        Raises:
            InputError: If it could not be written.
        """
        if self._begun is not None:
            error = self.writer.end()
            self._note_written(error is None)
            self._begun = None
            from_main(lambda: _raise(error))
            _raise(error)

    def close(self) -> None:
        """Let a checkpoint that is being written come to its end, where a run fails for another reason."""
        error = self.writer.end()
        if error is not None:
            log.warning("the last checkpoint was not written either (%s)", error)

    def _note_written(self, well: bool) -> None:
        """Note the checkpoint that was begun, once, when it is there."""
        if self._begun and well:
            seconds = {"seconds_blocked": self._begun["seconds_blocked"], "seconds": self.writer.seconds}
            self.events.write("checkpoint", step=self._begun["step"], **{k: round(v, 3) for k, v in seconds.items()})
            self._begun = {}  # noted; where all ranks meet, they wait for it all the same


def _raise(error: BaseException | None) -> None:
    if error is not None:
        raise error
