"""When a run is saved, and how its state becomes a checkpoint and back."""

import logging
import time
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils._pytree import tree_map
from typing_extensions import override

from imtok.data.order.position import StreamPosition
from imtok.distributed import from_main, gather_values, rank
from imtok.errors import InputError
from imtok.training import checkpoints
from imtok.training.callbacks import Guests
from imtok.training.checkpoints import Checkpoint
from imtok.training.ema import EMA
from imtok.training.flags import is_fast
from imtok.training.loggers import Loggers
from imtok.training.optimizer_state import optimizer_state, restore_optimizer
from imtok.training.records import Events
from imtok.training.resume import changes
from imtok.training.sharding import aside, whole
from imtok.training.steps import Task
from imtok.training.writer import Writer

log = logging.getLogger(__name__)

# Settings of an optimiser that change its steps, and not what it remembers.
_SAME_STATE = (
    *("lr", "betas", "eps", "weight_decay", "warmup_steps", "final_lr", "drop_at", "drop_by", "layer_decay"),
    *("foreach", "fused", "clip", "critic", "nets"),
)


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
        self._begun: dict[str, Any] | None = None  # what is to be noted of the checkpoint that is being written

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Task)
        if self.resume is not None:
            restore_optimizers(self.resume, pl_module, self.about["config"])
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
        self._note_written()
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
        checkpoint = take(task, self.ema, self.about)
        if self.stream is not None:
            checkpoint.state["stream"] = self.stream.state()
        states = self.guests.state() if self.guests is not None else {}
        if states:
            checkpoint.state["callbacks"] = states
        if rank() == 0:
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
            from_main(self.writer.wait)
            self._note_written()
            self._begun = None

    def close(self) -> None:
        """Let a checkpoint that is being written come to its end, where a run fails for another reason."""
        self.writer.join()
        try:
            self.writer.wait()
        except BaseException as error:
            log.warning("the last checkpoint was not written either (%s)", error)

    def _note_written(self) -> None:
        """Note the checkpoint that was begun, once, when it is there."""
        if self._begun and not self.writer.is_at_work and not self.writer.has_failed:
            seconds = {"seconds_blocked": self._begun["seconds_blocked"], "seconds": self.writer.seconds}
            self.events.write("checkpoint", step=self._begun["step"], **{k: round(v, 3) for k, v in seconds.items()})
            self._begun = {}  # noted; where all ranks meet, they wait for it all the same


def take(task: Task, ema: EMA[Any], about: dict[str, Any]) -> Checkpoint:
    """A copy of the state of a run between two steps. Every rank must call it; rank 0 gets the tensors."""
    state: dict[str, Any] = {
        "optimizers": [optimizer_state(task, optimizer) for optimizer in _optimizers(task)],
        "skipped": list(task.skipped),
        "ema_updates": ema.updates,
        "meters": tree_map(_copied, gather_values(task.meters.state_dict())),
    }
    taken = Checkpoint(task.step, _plain(task.state_dict()), _plain(ema.gather().state_dict()), state, about)
    if task.device.type == "cuda":
        torch.cuda.synchronize(task.device)  # the copies are there from here on
    return taken


def restore_weights(checkpoint: Checkpoint, task: Task, ema: EMA[Any]) -> None:
    """Put everything but the optimisers back, before the run starts."""
    try:
        for module, stored in ((task, checkpoint.model), (ema.average, checkpoint.ema)):
            for name, value in module.state_dict().items():
                if name in stored and stored[name].dtype != value.dtype:
                    raise RuntimeError(f"{name} is {stored[name].dtype} in it and {value.dtype} here")
            module.load_state_dict(stored)
    except RuntimeError as error:
        raise InputError(f"the checkpoint at step {checkpoint.step} does not fit this config ({error})") from None
    task.step = checkpoint.step
    task.skipped = list(checkpoint.state["skipped"])
    ema.updates = checkpoint.state["ema_updates"]


def restore_optimizers(checkpoint: Checkpoint, task: Task, config: dict[str, Any]) -> None:
    """Put the optimisers back, once they exist; where they are of another kind than before, they begin anew."""
    other = [key for key in changes(checkpoint.about.get("config", config), config) if _remembers_otherwise(key)]
    if other:
        log.warning("the optimiser begins anew, since %s differ", ", ".join(other))
        return
    try:
        for optimizer, state in zip(_optimizers(task), checkpoint.state["optimizers"], strict=True):
            restore_optimizer(task, optimizer, state)
    except (KeyError, ValueError) as error:
        raise InputError(
            f"the checkpoint at step {checkpoint.step} does not fit this config (optimisers differ: {error})"
        ) from None


def _remembers_otherwise(key: str) -> bool:
    """Whether an optimiser whose setting of this name differs keeps another kind of state."""
    names = key.split(".")
    return names[0] == "optimizer" and names[-1] not in _SAME_STATE


def _optimizers(task: Task) -> list[Any]:
    optimizers = task.optimizers(use_pl_optimizer=False)
    return optimizers if isinstance(optimizers, list) else [optimizers]


def _plain(state: dict[str, Any]) -> dict[str, Tensor]:
    """Whole tensors on rank 0's CPU, none of which shares memory with another (a condition of safetensors)."""
    found = {}
    for name, value in state.items():
        gathered = whole(value.detach())
        if rank() == 0:
            found[name] = aside(gathered)
    return found


def _copied(value: Any) -> Any:
    return aside(value) if isinstance(value, Tensor) else value
