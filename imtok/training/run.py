"""A whole run: start or go on, train, save, finish."""

import logging
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from lightning import Callback, Trainer
from lightning.pytorch.loggers.logger import DummyLogger

from imtok.data.base import Images, require_list
from imtok.data.order.buckets import bucketed
from imtok.data.order.loader import evaluation_loader, train_loader
from imtok.data.order.position import StreamPosition
from imtok.data.order.sampler import Steps
from imtok.data.reading.augment import augmented
from imtok.data.remarks import say_remarks
from imtok.data.told import told, with_channels
from imtok.distributed import gather_values, launched_rank, rank, world_size
from imtok.errors import InputError
from imtok.files import Lock
from imtok.measures.evaluate import evaluate
from imtok.measures.protocol import prepare as prepare_images
from imtok.measures.report.origin import Origin
from imtok.measures.report.results import Report
from imtok.measures.settings import Settings
from imtok.tokenizer import Tokenizer
from imtok.training import folder as run_folder
from imtok.training.callbacks import Guests
from imtok.training.checkpoints import Checkpoint
from imtok.training.compiling import compiled, compiles, parts_of
from imtok.training.crew import Crew, Watched, add_callbacks, assemble, carry_out
from imtok.training.damage import BadSampleCount
from imtok.training.ema import EMA
from imtok.training.finish import finish, finished_before
from imtok.training.flags import Again, is_fast, overfitted
from imtok.training.hardware import make_trainer, with_micro_batches, with_workers
from imtok.training.health import Health
from imtok.training.in_batch import in_batch_terms
from imtok.training.loggers import Loggers
from imtok.training.logging import Evaluation, Measured, PictureLog
from imtok.training.maps import check_maps
from imtok.training.outlook import unlikely
from imtok.training.prepare import Plan, Run, check_resume, held_out, peak_images, prepare
from imtok.training.resume import kind_of_order
from imtok.training.signals import spare_workers
from imtok.training.statement import statement, too_few
from imtok.training.task import TokenizerTask
from imtok.types import Batch

__all__ = ["Outcome", "Run", "train"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        report: The evaluation; None if the run is not at its last step.
        step: Steps done.
        signal: Number of the signal that ended it; 0 = none.
        finished_before: It was finished already, and nothing was done.
    """

    report: Report | None
    step: int
    signal: int = 0
    finished_before: bool = False


def train(run: Run) -> Outcome:
    """Carry out a run, from its start or from a checkpoint.

    Raises:
        InputError: If the folder, the checkpoint, the data or the config cannot be used. Before the first step
            nothing has been written then; later, all checkpoints are whole.
    """
    with run_folder.held(run.folder) as lock:
        return _train(run, lock)


def _train(run: Run, lock: Lock) -> Outcome:
    if run.trainer.threads:
        torch.set_num_threads(run.trainer.threads)
    # Where it begins: with its images, at its first step or at a checkpoint.
    trained = augmented(with_channels(run.data.train(run.image_size, run.seed), run.tokenizer.channels), run.augment)
    images = told(bucketed(trained, run.buckets), run.tokenizer.condition, run.objective.reads)
    say_remarks(images.remarks)
    known = images.about if launched_rank() == 0 else {}  # that reads the list, and rank 0 writes what it finds
    about = {"config": run.config, "data": known, **({"left_out": run.left_out} if run.left_out else {})}
    resume = run_folder.find_checkpoint(run.folder, run.ckpt, run.trainer.strategy != "fsdp")
    about["order"] = kind_of_order(None if resume is None else resume.about)
    if resume is not None:
        check_resume(run, resume, images)
        if finished_before(run.folder, resume, run.config, run.trainer.max_steps) is not None:
            return Outcome(None, resume.step, finished_before=True)
    # All that can be refused is refused here.
    if overfitted(run.trainer.lightning):
        require_list(
            images,
            "trainer.lightning.overfit_batches needs images that can be read in any order, and these are read as a "
            "stream; give a folder, or shards on this machine",
        )
    trainer = make_trainer(run.trainer, run.command)
    _place_profile(trainer, run)
    settings = with_workers(run.trainer, trainer.num_devices)
    run = replace(run, trainer=with_micro_batches(settings, trainer.world_size))
    plan = prepare(run, trainer.world_size, images, about, resume)
    at = None if resume is None else resume.step
    sections = {} if is_fast(trainer) else run.loggers
    mirror = Loggers(sections, run.folder, run.config, at, launched_rank() == 0)
    # From here on the folder is this run's.
    if launched_rank() == 0:
        _claim(run, trainer, plan, lock)
    mirror.start()
    trainer.loggers = [DummyLogger()] if is_fast(trainer) else mirror.loggers
    crew, watched = _assemble(run, trainer, plan, mirror)
    return _carry_out(run, trainer, crew, watched, plan)


def _claim(run: Run, trainer: Trainer, plan: Plan, lock: Lock) -> None:
    """Take the folder, write what the run is, and say what it will do."""
    _warn_of_micro_batches(run)
    run_folder.claim(run.folder, run.ckpt, lock)
    run_folder.describe(run.folder, run.config_yaml, plan.about, run.seed)
    _say(run, (plan.images, plan.validation), trainer, plan.resume.step if plan.resume is not None else 0)


def _assemble(run: Run, trainer: Trainer, plan: Plan, mirror: Loggers) -> tuple[Crew, Watched]:
    """The task at its first step or where it was left, and the callbacks, which the trainer gets here."""
    # What is learnt, and its average.
    position = _stream_position(plan.images, plan.resume)
    task = TokenizerTask(
        run.tokenizer,
        run.objective,
        lambda first, last: _train_loader(run, plan, first, last, position),
        run.trainer,
        run.optimizer,
        run.seed,
        start_codebook=run.init_from is None or not run.init_from.takes("quantizer"),
        schedules=run.schedules,
    )
    ema = EMA(run.tokenizer, run.ema.decay)
    # Who watches.
    peak = peak_images(run, trainer.world_size, trainer.strategy.root_device)
    left_out = list(run.left_out)
    watched = Watched(run.folder, run.trainer, plan.about, plan.resume, plan.callbacks, left_out, peak)
    health, damage = Health(run.tokenizer.quantizer), BadSampleCount(run.folder)
    crew = assemble(trainer, watched, task, ema, mirror, health, position, [damage])
    if plan.resume is not None:
        check_maps(run.tokenizer.space, plan.images)
    more = list[Callback]()
    if run.trainer.pictures_every:
        more.append(PictureLog(run.folder, run.trainer.pictures_every, plan.shown, ema, mirror))
    if plan.asked is not None:
        more.append(_evaluation(run, plan.asked, plan, ema, mirror, crew.guests))
    add_callbacks(trainer, *more, crew.signals)
    return crew, watched


def _carry_out(run: Run, trainer: Trainer, crew: Crew, watched: Watched, plan: Plan) -> Outcome:
    """Train, and at the last step evaluate and write the tokenizer."""
    task = crew.task

    def finished(stopped: bool) -> Report:
        loader = _validation_loader(run, 64, rank(), world_size())
        averaged = crew.ema.gather().to(trainer.strategy.root_device)
        origin = Origin(run.config.get("data", {}), "val", str(run.folder), run.measured_by)
        facts: dict[str, Any] = {"steps": task.step, "skipped": task.skipped[0]}
        if stopped:
            facts["stopped_at"] = task.step
        if run.left_out:
            facts["left_out"] = list(run.left_out)
        report = finish(run.folder, averaged, loader, facts, plan.shown.key, origin)
        crew.mirror.final(task.step, report.metrics)
        return report

    wanted = compiles(run.trainer.compile, trainer.strategy.root_device)
    with compiled(parts_of(run.tokenizer, run.objective, run.trainer.tf32 == "high")) if wanted else nullcontext():
        report = carry_out(trainer, crew, watched, finished, run.trainer.max_steps)
    return Outcome(report, task.step, crew.signals.received)


def _place_profile(trainer: Trainer, run: Run) -> None:
    """Let a profiler that was named write to the run folder: what it says is no message of a run."""
    profiler: Any = getattr(trainer, "profiler", None)
    if isinstance((run.trainer.lightning or {}).get("profiler"), str):
        profiler.dirpath, profiler.filename = run.folder, profiler.filename or "profile"


def _say(run: Run, images: tuple[Images, Images], trainer: Trainer, step: int) -> None:
    """What the run will do, and what of its config it will not."""
    devices = (trainer.strategy.root_device, trainer.world_size)
    for line in statement(
        run.tokenizer, run.objective, images, run.image_size, run.trainer, devices, (step, str(run.folder))
    ):
        log.info("%s", line)
    if run.note:
        log.info("%-11s %s", "note", run.note)
    for key, why in run.left_out.items():
        if step:
            why = "this run began without it; judges=required allow_change=[objective] takes it in"
        log.warning("%s is left out (judges=found): %s", key, why)
    for line in [
        *too_few(images, run.config.get("data") or {}),
        *unlikely(run.trainer, run.optimizer, run.config, run.schedules.get("tokenizer")),
    ]:
        log.warning("%s", line)


def _warn_of_micro_batches(run: Run) -> None:
    if run.trainer.accumulate > 1:
        for term in in_batch_terms(run.objective, run.tokenizer.quantizer):
            log.warning(
                "with %d micro-batches per step %s differs from that of one batch of %d images",
                *(run.trainer.accumulate, term, run.trainer.batch_size),
            )


def _stream_position(images: Images, resume: Checkpoint | None) -> StreamPosition | None:
    """Where a run on a stream goes on; None for images that can be read in any order."""
    position = images.position(resume.state.get("stream") if resume else None)
    if position is not None and resume is not None and launched_rank() == 0:
        log.info("%s", images.going_on(position))
    return position


def _train_loader(run: Run, plan: Plan, first: int, last: int, position: StreamPosition | None) -> Any:
    settings, images = run.trainer, plan.images
    if len(set(gather_values(images.sketch if world_size() > 1 else ""))) > 1:
        raise InputError(
            "the processes of this run do not see the same training images; give all machines the same data.path"
        )
    places = (settings.batch_size, settings.accumulate, rank(), world_size())
    steps = Steps(run.seed, *places, first, last, plan.about["order"])
    batches, number = images.training_batches(steps, position), overfitted(settings.lightning)
    return spare_workers(train_loader(images, Again(number, batches) if number else batches, settings.workers))


def _validation_loader(run: Run, batch_size: int, part: int, parts: int) -> Any:
    return evaluation_loader(held_out(run), batch_size, run.trainer.workers, part, parts)


def _evaluation(
    run: Run, asked: Settings, plan: Plan, ema: EMA[Tokenizer], mirror: Loggers, guests: Guests
) -> Evaluation:
    settings = run.trainer
    some = prepare_images(held_out(run).spread(settings.evaluate_images), asked.protocol, None)

    def batches() -> Iterable[Batch]:
        loader = evaluation_loader(some, 64, 0, rank(), world_size())
        return islice(loader, -(-settings.evaluate_images // (64 * world_size())))

    def measure(tokenizer: Tokenizer, device: torch.device) -> Measured:
        report = evaluate(tokenizer, batches(), device, 0, asked)
        return Measured(report.images, report.metrics, report.absent)

    return Evaluation(run.folder, settings.evaluate_every, measure, plan.best, ema, mirror, guests)
