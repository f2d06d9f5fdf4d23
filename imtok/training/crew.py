"""Who watches a run, whatever it trains: log, averages, checkpoints, signals; and how they bring it to its end."""

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from lightning import Callback, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.warnings import PossibleUserWarning

from imtok.data.order.position import StreamPosition
from imtok.distributed import device_name, launched_rank, world_size
from imtok.errors import InputError
from imtok.nn.exact import with_tf32
from imtok.training import folder as run_folder
from imtok.training.alike import Alike
from imtok.training.callbacks import Guests, stored_states
from imtok.training.checkpoints import Checkpoint
from imtok.training.determinism import deterministic
from imtok.training.ema import EMA
from imtok.training.estimate import Estimate
from imtok.training.failures import note_failure
from imtok.training.health import Health
from imtok.training.launching import Launcher
from imtok.training.loggers import Loggers
from imtok.training.logging import Log
from imtok.training.patience import Patience
from imtok.training.progress import Bar
from imtok.training.records import Events
from imtok.training.saving import Saving
from imtok.training.settings import TrainerSettings
from imtok.training.signals import Signals
from imtok.training.states import in_shards, restore_counts, restore_part, restore_weights
from imtok.training.steps import Task

log = logging.getLogger(__name__)
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Watched:
    """What the watchers know of a run.

    Attributes:
        folder: The run folder.
        settings: Of the trainer.
        about: Config and data, as every checkpoint says them.
        resume: Where it goes on; None = it begins.
        callbacks: Those of the config, by name.
        left_out: Judges that this process is without.
        peak_images: Images per second at which all devices would compute at their peak; None = not known.
    """

    folder: Path
    settings: TrainerSettings
    about: dict[str, Any]
    resume: Checkpoint | None
    callbacks: Mapping[str, Callback] = field(default_factory=dict)
    left_out: Sequence[str] = ()
    peak_images: float | None = None


@dataclass(frozen=True)
class Crew:
    """What trains, and what watches it.

    Attributes:
        task: Its steps.
        ema: The average of its weights.
        events: What happened when.
        mirror: The loggers.
        guests: The callbacks of the config.
        saving: Writes the checkpoints.
        signals: What ends the run between two steps.
    """

    task: Task
    ema: EMA[Any]
    events: Events
    mirror: Loggers
    guests: Guests
    saving: Saving
    signals: Signals


def assemble(
    trainer: Trainer,
    watched: Watched,
    task: Task,
    ema: EMA[Any],
    mirror: Loggers,
    health: Health,
    position: StreamPosition | None = None,
    before_log: Sequence[Callback] = (),
) -> Crew:
    """Put task and average where the run goes on, and the watchers into the trainer.

    Whoever adds callbacks of its own to the trainer afterwards ends with ``Crew.signals``.

    Args:
        trainer: Gets the callbacks, without the last one.
        watched: See there.
        task: At its first step.
        ema: A copy of what it trains.
        mirror: The loggers, which have started.
        health: Says what goes wrong.
        position: Which shards of a stream were begun; None = there is no stream.
        before_log: Further callbacks, before the row of a step is written.
    """
    main, resume, settings, folder = launched_rank() == 0, watched.resume, watched.settings, watched.folder
    if resume is not None:
        if in_shards(trainer.strategy) and resume.shards is not None and resume.step < task.last_step:
            restore_counts(resume, task, ema)  # the rest when the weights lie in shards
            restore_part(resume, task, "tokenizer.space.")  # is looked at before that
        else:
            restore_weights(resume, task, ema)
    events = Events(folder / "events.jsonl", main)
    often = (settings.save_every, settings.evaluate_every)  # what goes wrong in an evaluation costs no step
    guests = Guests(watched.callbacks, settings.log_every, stored_states(resume, watched.about["config"]))
    places = (ema, folder / "checkpoints", often, settings.keep, watched.about)
    on_gpu = trainer.strategy.root_device.type == "cuda"
    beside = on_gpu if settings.save_async == "auto" else bool(settings.save_async)
    saving = Saving(*places, events, resume, position, mirror, guests, beside)
    bar = Bar(settings.batch_size)
    logged = Log(folder, settings.log_every, bar, health, events, mirror, watched.peak_images)
    estimate = Estimate(device_name(trainer.strategy.root_device, trainer.world_size))
    alike = Alike(list(watched.left_out), settings.precision)
    callbacks = [guests, alike, Patience(), ema, bar, *before_log, logged, estimate]
    callbacks += [*watched.callbacks.values(), saving]  # saved after a step are the states after that step
    add_callbacks(trainer, *callbacks)
    return Crew(task, ema, events, mirror, guests, saving, Signals(saving))


def add_callbacks(trainer: Trainer, *callbacks: Callback) -> None:
    """Add callbacks behind those that a trainer has."""
    trainer.callbacks.extend(callbacks)  # type: ignore[attr-defined], Lightning's connector sets it


def carry_out(
    trainer: Trainer, crew: Crew, watched: Watched, finish: Callable[[bool], _Result], to_end: int
) -> _Result | None:
    """Train, and at the last step finish; what fails is noted, and the processes part.

    Args:
        trainer: Has all callbacks.
        crew: See there.
        watched: See there.
        finish: Called at the end of the run with whether a callback has ended it before its last step; every rank
            calls it, except that of a run that has no step left only the first one does.
        to_end: The last step of the whole run.

    Returns:
        What ``finish`` returned; None if the run is not at its end.
    """
    task, events, signals, result = crew.task, crew.events, crew.signals, None
    begins = watched.resume is None
    events.write("start" if begins else "resume", step=task.step)
    launcher = trainer.strategy.launcher if isinstance(trainer.strategy.launcher, Launcher) else None
    try:
        if task.step < task.last_step:
            _fit(trainer, task, watched.settings)
        elif launched_rank() != 0:  # what is left to do takes one process
            return None
        stopped = trainer.should_stop and task.step < task.last_step and not signals.received
        if stopped:
            log.info("stopped after step %d of %d by a callback", task.step, task.last_step)
            events.write("stop", step=task.step)
        if (stopped or task.step >= to_end) and not signals.received:
            result = finish(stopped)
        if launcher is not None:
            launcher.part()
    except BaseException as error:
        if isinstance(error, InputError) and begins and task.step == 0 and world_size() == 1:
            # refused by the first batch, say: there is nothing to go on with
            crew.mirror.finish(failed=True)
            run_folder.give_back(watched.folder, crew.mirror.places)
        else:
            note_failure(events, task.step, error)
        raise
    finally:
        crew.saving.close()
        crew.mirror.finish(failed=task.step < task.last_step and not signals.received)
        if launcher is not None:
            launcher.close()
    events.write("signal" if signals.received else "end", step=task.step, signal=signals.received)
    return result


def _fit(trainer: Trainer, task: Task, settings: TrainerSettings) -> None:
    """Carry out the steps that are left."""
    with warnings.catch_warnings(), with_tf32(settings.tf32 == "high"), deterministic(settings.deterministic):
        warnings.simplefilter("ignore", PossibleUserWarning)  # advice on workers: trainer.workers is the user's choice
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning's own use of torch
        try:
            trainer.fit(task)
        except MisconfigurationException as error:  # of a logger or a callback, before the first step
            raise InputError(f"logger and callback: {str(error).splitlines()[0]}") from error
