"""Lightning's callbacks, and those of one's own, in a run whose steps, evaluations and checkpoints are imtok's."""

import io
import warnings
from collections.abc import Mapping
from typing import Any, cast

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch import callbacks as lightning
from torch import Tensor
from torch.utils._pytree import tree_map
from typing_extensions import override

from imtok.errors import InputError
from imtok.training.checkpoints import Checkpoint
from imtok.training.parts import build, find_class
from imtok.training.steps import Task

# What imtok does itself, by base class, and the key that says how.
_OWN: dict[type, str] = {
    lightning.Checkpoint: "trainer.save_every, trainer.keep and trainer.best say which checkpoints there are",
    lightning.WeightAveraging: "ema.decay averages the weights",
    lightning.StochasticWeightAveraging: "ema.decay averages the weights",
    lightning.GradientAccumulationScheduler: "trainer.accumulate or trainer.micro_batch says how a batch is cut",
    lightning.BatchSizeFinder: "trainer.batch_size is the global batch, and trainer.micro_batch what fits",
    lightning.LearningRateFinder: "optimizer.lr is the learning rate; -m optimizer.lr=1e-4,1e-3 compares some",
    lightning.BaseFinetuning: "freeze says which parts stay as they are",
    lightning.ModelPruning: "a pruned net has other weights than its tokenizer",
    lightning.ProgressBar: "a run has a progress bar",
}
_NEVER = 2**62  # of trainer.log_every_n_steps: no step is a multiple of it


def build_callbacks(sections: Mapping[str, Any]) -> dict[str, Callback]:
    """The callbacks of a config, by name.

    Raises:
        InputError: If a class is no callback, does what imtok does itself, refuses its arguments, or has a state that
            no checkpoint can hold.
    """
    found = dict[str, Callback]()
    for name, section in sections.items():
        key = f"callback.{name}"
        refuse_own(find_class(section["_target_"], "callback", key), key)
        callback = cast(Callback, build(section, "callback", key))
        _check_state(callback, key)
        found[name] = callback
    return found


def refuse_own(kind: type, key: str) -> None:
    """Raise InputError if callbacks of a class do what imtok does itself."""
    for base, instead in _OWN.items():
        if issubclass(kind, base):
            raise InputError(f"{key}: imtok does the work of {kind.__name__} itself: {instead}")


def check_monitors(
    callbacks: Mapping[str, Callback],
    measured: Mapping[str, bool | None],
    every: int,
    more: tuple[str, ...] = ("loss",),
) -> None:
    """Check that what a callback monitors will be there, and that it takes the better direction.

    Args:
        callbacks: By name.
        measured: The numbers of the run's evaluations, and whether a larger one is better; None = neither is.
        every: Steps between evaluations; 0 = there are none.
        more: Other numbers that can be monitored.

    Raises:
        InputError: If that is not so.
    """
    for name, callback in callbacks.items():
        key, monitor, mode = f"callback.{name}", getattr(callback, "monitor", None), getattr(callback, "mode", None)
        if not isinstance(monitor, str):
            continue
        if not every:
            raise InputError(
                f"{key} looks at {monitor} after each evaluation, and there are none: give trainer.evaluate_every=STEPS"
            )
        if monitor not in (*measured, *more):
            raise InputError(
                f"{key}.monitor={monitor} is not among what is measured: {', '.join((*measured, *more))} "
                "(trainer.evaluate_metrics)"
            )
        higher = measured.get(monitor)
        if higher is not None and mode in ("min", "max") and (mode == "max") is not higher:
            better = "max" if higher else "min"
            size = "larger" if higher else "smaller"
            raise InputError(f"{key}.mode must be {better}, since a {size} {monitor} is better, got {mode}")


def stored_states(resume: Checkpoint | None, config: Mapping[str, Any]) -> dict[str, Any]:
    """The states of callbacks in a checkpoint, by name.

    A callback may keep its settings there, as EarlyStopping keeps its patience; those that have changed in the config
    since, by ``allow_change``, are the config's.
    """
    if resume is None:
        return {}
    found = dict(resume.state.get("callbacks", {}))
    before, now = (given.get("callback") or {} for given in (resume.about.get("config", {}), config))
    for name, state in found.items():
        old, new = (given.get(name) or {} for given in (before, now))
        changed = {key: value for key, value in new.items() if key in state and old.get(key) != value}
        found[name] = {**state, **changed}
    return found


def tell(trainer: Trainer, values: Mapping[str, Any]) -> None:
    """Let callbacks see numbers by name, in ``trainer.callback_metrics``."""
    numbers = {name: torch.tensor(float(value)) for name, value in values.items() if isinstance(value, (int, float))}
    trainer.callback_metrics.update(numbers)


class Guests(Callback):
    """Gives the callbacks of the config what they expect of Lightning: steps, rates, evaluations and their states.

    It comes before all others. The step axis is that of ``metrics.csv``: during a step and after it, the number of
    optimiser steps with this one. Lightning's own counts batches, those of this process alone.

    Args:
        callbacks: By name.
        every: Steps between rows of the log, at which monitors log, too.
        states: The states to go on from, by name.
    """

    def __init__(self, callbacks: Mapping[str, Callback], every: int, states: Mapping[str, Any] | None = None) -> None:
        self.callbacks = dict(callbacks)
        self.every = every
        self.states = states or {}

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        trainer.check_val_every_n_epoch = None  # EarlyStopping looks after evaluations, not at the end of the run

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Task)
        self._count(trainer, pl_module, pl_module.step)
        for name, state in self.states.items():
            if name in self.callbacks:
                self.callbacks[name].load_state_dict(tree_map(_copied, state))

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        assert isinstance(pl_module, Task)
        step = pl_module.step + 1
        last = pl_module.trainer_settings.max_steps
        due = pl_module.is_last_micro_batch and (step % self.every == 0 or step == last)
        vars(trainer)["log_every_n_steps"] = 1 if due else _NEVER
        pl_module.set_rates()
        self._count(trainer, pl_module, step)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, Task)
        self._count(trainer, pl_module, pl_module.step + (not pl_module.stepped))

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Task)
        self._count(trainer, pl_module, pl_module.step)

    def before_evaluation(self, trainer: Trainer, task: Task) -> None:
        """Call the hooks of a validation that begins."""
        for callback in self.callbacks.values():
            callback.on_validation_start(trainer, task)
            callback.on_validation_epoch_start(trainer, task)

    def after_evaluation(self, trainer: Trainer, task: Task, values: Mapping[str, Any]) -> None:
        """Let callbacks see the numbers, and call the hooks of a validation that ends."""
        tell(trainer, values)
        for callback in self.callbacks.values():
            callback.on_validation_epoch_end(trainer, task)
            callback.on_validation_end(trainer, task)

    def state(self) -> dict[str, Any]:
        """What the callbacks remember, by name, for a checkpoint."""
        states = {name: callback.state_dict() for name, callback in self.callbacks.items()}
        return {name: tree_map(_copied, state) for name, state in states.items() if state}

    def _count(self, trainer: Trainer, task: Task, step: int) -> None:
        loop = trainer.fit_loop.epoch_loop
        loop._batches_that_stepped = step
        loop.manual_optimization.optim_step_progress.total.completed = task.step
        loop.manual_optimization.optim_step_progress.total.ready = task.step


def _copied(value: Any) -> Any:
    return value.detach().cpu().clone() if isinstance(value, Tensor) else value


def _check_state(callback: Callback, key: str) -> None:
    """Refuse a state that a checkpoint could not be read back with."""
    stored = io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.save(callback.state_dict(), stored)
            stored.seek(0)
            torch.load(stored, weights_only=True)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{key}: the state_dict of {type(callback).__name__} must hold numbers, texts and tensors, in dicts and "
            f"lists, so that a checkpoint can hold it ({reason})"
        ) from None
