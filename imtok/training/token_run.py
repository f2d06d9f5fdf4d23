"""A whole run of a net on tokens: start or go on, train, save, and say what it knows of tokens it has not seen."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from lightning import Callback
from lightning.pytorch.loggers.logger import DummyLogger
from torch.utils.data import DataLoader

from imtok.data.order.sampler import TrainBatches
from imtok.distributed import device_name, from_main, launched_rank, rank, sum_over_ranks, world_size
from imtok.errors import InputError
from imtok.files import Lock, write_json
from imtok.nn.transformer import Transformer
from imtok.priors.learner import TokenLearner
from imtok.priors.rows import TokenRows, collate
from imtok.training import folder as run_folder
from imtok.training.callbacks import build_callbacks, check_monitors
from imtok.training.checkpoints import Checkpoint
from imtok.training.compiling import compiled, compiles
from imtok.training.crew import Watched, add_callbacks, assemble, carry_out
from imtok.training.ema import EMA
from imtok.training.finish import SUMMARY, finished_before
from imtok.training.flags import Again, is_fast, overfitted
from imtok.training.hardware import make_trainer, with_micro_batches, with_workers
from imtok.training.health import Health
from imtok.training.loggers import Loggers
from imtok.training.logging import Evaluation, Measured
from imtok.training.optimizers import make_optimizer, try_optimizer
from imtok.training.rates import Schedules
from imtok.training.resume import check_changes, kind_of_order
from imtok.training.settings import EMASettings, OptimizerSettings, TrainerSettings
from imtok.training.signals import spare_workers
from imtok.training.token_task import TokenTask

log = logging.getLogger(__name__)
_BATCH = 64  # rows that are measured at a time


@dataclass(frozen=True)
class TokenRun:
    """A run's parts and settings; :func:`train_on_tokens` carries it out.

    Attributes:
        net: What is trained.
        rows: Tokens to learn from.
        held_out: Tokens to measure on.
        trainer: Length, hardware, cadence.
        optimizer: Of the net.
        ema: Averaging of the weights.
        folder: The run folder.
        seed: Of all randomness.
        config: Everything above as plain values.
        config_yaml: The same as text.
        ckpt: ``last`` or a checkpoint folder to go on from.
        loggers: What the log is sent to as well: a section with ``_target_`` for each name.
        callbacks: Lightning's callbacks, and those of one's own, in the same way.
        allow_change: Config keys that may differ from the run so far.
        command: What its further processes on this machine run, where no launcher has started them.
        schedules: Of the learning rate, by the name of the net.
    """

    net: TokenLearner
    rows: TokenRows
    held_out: TokenRows
    trainer: TrainerSettings
    optimizer: OptimizerSettings
    ema: EMASettings
    folder: Path
    seed: int
    config: dict[str, Any]
    config_yaml: str
    ckpt: str | None = None
    loggers: Mapping[str, Any] = field(default_factory=dict)
    callbacks: Mapping[str, Any] = field(default_factory=dict)
    allow_change: Sequence[str] = ()
    command: tuple[str, ...] = ()
    schedules: Schedules = field(default_factory=dict)


@dataclass(frozen=True)
class TokenOutcome:
    """How a run ended.

    Attributes:
        found: What the net knows of held-out tokens; None if the run is not at its last step.
        step: Steps done.
        signal: Number of the signal that ended it; 0 = none.
        finished_before: It was finished already, and nothing was done.
    """

    found: dict[str, Any] | None
    step: int
    signal: int = 0
    finished_before: bool = False


def train_on_tokens(run: TokenRun) -> TokenOutcome:
    """Carry out a run, from its start or from a checkpoint.

    Raises:
        InputError: If the folder, the checkpoint, the tokens or the config cannot be used. Before the first step
            nothing has been written then; later, all checkpoints are whole.
    """
    with run_folder.held(run.folder) as lock:
        return _train(run, lock)


def _train(run: TokenRun, lock: Lock) -> TokenOutcome:
    if run.trainer.threads:
        torch.set_num_threads(run.trainer.threads)
    # Where it begins: at its first step or at a checkpoint.
    about: dict[str, Any] = {"config": run.config, "data": _about(run)}
    resume = run_folder.find_checkpoint(run.folder, run.ckpt, run.trainer.strategy != "fsdp")
    about["order"] = kind_of_order(None if resume is None else resume.about)
    if resume is not None:
        _check_resume(run, resume, about)
        if (found := finished_before(run.folder, resume, run.config, run.trainer.max_steps)) is not None:
            return TokenOutcome(found, resume.step, finished_before=True)
    # All that can be refused is refused here.
    trainer = make_trainer(run.trainer, run.command)
    settings = with_workers(run.trainer, trainer.num_devices)
    run = replace(run, trainer=with_micro_batches(settings, trainer.world_size))
    callbacks = _try_parts(run)
    sections = {} if is_fast(trainer) else dict(run.loggers)
    step = None if resume is None else resume.step
    mirror = Loggers(sections, run.folder, run.config, step, launched_rank() == 0)
    # From here on the folder is this run's.
    if launched_rank() == 0:
        run_folder.claim(run.folder, run.ckpt, lock)
        run_folder.describe(run.folder, run.config_yaml, about, run.seed)
        _say(run, device_name(trainer.strategy.root_device, trainer.world_size), step or 0)
    mirror.start()
    trainer.loggers = [DummyLogger()] if is_fast(trainer) else mirror.loggers
    # What is learnt, its average, and who watches.
    task = TokenTask(
        run.net,
        lambda first, last: _loader(run, first, last, about["order"]),
        run.trainer,
        run.optimizer,
        run.seed,
        run.schedules,
    )
    ema = EMA(run.net, run.ema.decay)
    watched = Watched(run.folder, run.trainer, about, resume, callbacks)
    crew = assemble(trainer, watched, task, ema, mirror, Health(None))
    if run.trainer.evaluate_every:
        best = next(iter(run.net.numbers.items())) if run.trainer.best else None
        places, name = (run.folder, run.trainer.evaluate_every), run.net.name
        add_callbacks(
            trainer, Evaluation(*places, lambda net, _: _measured(run, net), best, ema, mirror, crew.guests, name)
        )
    add_callbacks(trainer, crew.signals)

    def finished(stopped: bool) -> dict[str, Any]:
        averaged = ema.gather().to(trainer.strategy.root_device)
        found = {**measure(averaged, run), "steps": task.step, "skipped": task.skipped[0], "weights": "ema"}
        if stopped:
            found["stopped_at"] = task.step
        from_main(lambda: _write(run.folder, averaged, found))
        crew.mirror.final(task.step, {name: value for name, value in found.items() if isinstance(value, float)})
        return found

    parts = [part for part in run.net.modules() if isinstance(part, Transformer)]
    with compiled(parts) if compiles(run.trainer.compile, trainer.strategy.root_device) else nullcontext():
        found = carry_out(trainer, crew, watched, finished, run.trainer.max_steps)
    return TokenOutcome(found, task.step, crew.signals.received)


def measure(net: TokenLearner, run: TokenRun) -> dict[str, Any]:
    """What a net knows of held-out tokens. Every rank must call it."""
    return net.concluded(_counts(net, run.held_out), run.rows, run.held_out)


def _counts(net: TokenLearner, rows: TokenRows) -> list[float]:
    """Counts on held-out tokens, over all ranks."""
    training = net.training
    net.eval()
    own = net.counts(rows.batches(_BATCH, rank(), world_size()))
    net.train(training)
    return sum_over_ranks(torch.tensor(own, dtype=torch.float64, device=next(net.parameters()).device)).tolist()


def _measured(run: TokenRun, net: TokenLearner) -> Measured:
    return Measured(*net.measured(_counts(net, run.held_out.some(run.trainer.evaluate_images))), {})


def _write(folder: Path, net: TokenLearner, found: dict[str, Any]) -> None:
    net.save(folder / net.name)
    write_json(folder / SUMMARY, found)


def _try_parts(run: TokenRun) -> dict[str, Callback]:
    """Build callbacks, and try what could be refused later."""
    main = next(iter(run.net.numbers))
    if run.trainer.best not in (None, main):
        raise InputError(f"trainer.best must be {main} or null for a {run.net.name}, got {run.trainer.best}")
    try_optimizer(run.optimizer, "optimizer", run.trainer.strategy == "fsdp")
    make_optimizer(run.net, run.optimizer)
    try:
        run.net.try_out(next(run.rows.batches(2)))
    except ValueError as error:
        raise InputError(f"{run.net.name}: {error}") from None
    callbacks = build_callbacks(run.callbacks)
    check_monitors(callbacks, dict(run.net.numbers), run.trainer.evaluate_every)
    return callbacks


def _about(run: TokenRun) -> dict[str, Any]:
    """Which tokens a run learns from, as every checkpoint says it."""
    stores = {"store": run.rows.store, "val": run.held_out.store}
    hashes = {name: store.manifest.get("sha256") for name, store in stores.items()}
    told = {} if run.rows.other is None else {"condition": run.rows.other.sha256}
    return {"images": len(run.rows), "held_out": len(run.held_out), **hashes, **told}


def _check_resume(run: TokenRun, resume: Checkpoint, about: dict[str, Any]) -> None:
    for line in check_changes(resume.about["config"], run.config, list(run.allow_change)):
        log.warning("going on with a changed config: %s", line)
    if resume.about["data"] != about["data"] and "store" not in run.allow_change:
        raise InputError(
            f"the tokens in store={run.rows.store.folder} are not those of the run so far; bring them back, or say "
            "allow_change=[store] to go on all the same"
        )


def _loader(run: TokenRun, first: int, last: int, order: str) -> DataLoader[Any]:
    settings = run.trainer
    places = (settings.batch_size, settings.accumulate, rank(), world_size())
    batches = TrainBatches(len(run.rows), run.seed, *places, first, last, order)
    number = overfitted(settings.lightning)
    chosen: Any = Again(number, batches) if number else batches
    return spare_workers(DataLoader(run.rows, batch_sampler=chosen, num_workers=settings.workers, collate_fn=collate))


def _say(run: TokenRun, device: str, step: int) -> None:
    """What the run will do."""
    for name, what in (
        *run.net.described().items(),
        ("images", f"{len(run.rows):,} to learn from, {len(run.held_out):,} held out"),
        ("steps", f"{step} to {run.trainer.max_steps} of {run.trainer.batch_size} images"),
        ("device", device),
        ("folder", str(run.folder)),
    ):
        log.info("%-11s %s", name, what)
