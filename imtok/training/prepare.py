"""What a run is given, and what is found out about it before it writes anything."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning import Callback
from torch import nn
from torchvision.transforms.v2 import Transform

from imtok.data.base import Data, Images
from imtok.data.reading.boxes import with_boxes
from imtok.data.reading.transforms import Shape
from imtok.data.remarks import say_remarks
from imtok.data.told import DATA_WITH, require_read, require_told, told, with_channels
from imtok.distributed import launched_rank
from imtok.errors import InputError
from imtok.measures.boxes import require_boxes
from imtok.measures.choose import numbers
from imtok.measures.named import DEFAULT, sections
from imtok.measures.pictures import choose_shown
from imtok.measures.protocol import Protocol
from imtok.measures.quantity import Quantity
from imtok.measures.settings import Settings
from imtok.nn.frozen import warn_random
from imtok.objectives.base import Objective
from imtok.pretrained import RANDOM, Pretrained, fetch_weights, find_weights
from imtok.tokenizer import Tokenizer
from imtok.training.best import find_best
from imtok.training.callbacks import build_callbacks, check_monitors
from imtok.training.checkpoints import Checkpoint
from imtok.training.flops import peak_tflops
from imtok.training.init_from import take_weights
from imtok.training.maps import check_maps
from imtok.training.nets import check_nets
from imtok.training.optimizers import make_optimizer, try_optimizer
from imtok.training.rates import Schedules
from imtok.training.rehearsal import Rehearsal
from imtok.training.resume import check_changes
from imtok.training.settings import EMASettings, InitFrom, OptimizerSettings, TrainerSettings, net_key
from imtok.types import Batch

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """A run's parts and settings; :func:`imtok.training.run.train` carries it out.

    Attributes:
        tokenizer: What is trained.
        objective: What is minimised.
        data: Where images come from.
        trainer: Length, hardware, cadence.
        optimizer: Of the tokenizer and of the objective's nets.
        ema: Averaging of the weights.
        folder: The run folder.
        image_size: Side of the training images, in pixels.
        seed: Of all randomness.
        config: Everything above as plain values.
        config_yaml: The same as text.
        ckpt: ``last`` or a checkpoint folder to go on from.
        augment: What changes training crops further: transforms of torchvision.
        boxes: A file of boxes in the held-out images; None = no file.
        buckets: Height and width of the shapes that training crops have, in pixels; () = squares of ``image_size``.
        init_from: A tokenizer whose weights it starts from, or those of some parts.
        measures: What evaluations along the way measure, under the protocol ``offline``: a section with ``_target_``
            for each name.
        loggers: What the log is sent to as well: a section with ``_target_`` for each name.
        callbacks: Lightning's callbacks, and those of one's own, in the same way.
        allow_change: Config keys that may differ from the run so far.
        note: What is to be known of its results, said at its start and at its end; "" = nothing.
        command: What its further processes on this machine run, where no launcher has started them.
        measured_by: The command that measures the finished run again, for its report.
        left_out: The judges that the objective is without, as their weights are not on this machine: why, by key.
        schedules: Of the learning rates of the tokenizer and of each net of the objective; a net that is not there has
            warm-up, then half a cosine.
    """

    tokenizer: Tokenizer
    objective: Objective
    data: Data
    trainer: TrainerSettings
    optimizer: OptimizerSettings
    ema: EMASettings
    folder: Path
    image_size: int
    seed: int
    config: dict[str, Any]
    config_yaml: str
    ckpt: str | None = None
    augment: tuple[Transform, ...] = ()
    boxes: str | None = None
    buckets: tuple[Shape, ...] = ()
    init_from: InitFrom | None = None
    measures: dict[str, Any] = field(default_factory=lambda: sections(DEFAULT))
    loggers: dict[str, Any] = field(default_factory=dict)
    callbacks: dict[str, Any] = field(default_factory=dict)
    allow_change: tuple[str, ...] = ()
    note: str = ""
    command: tuple[str, ...] = ()
    measured_by: str = ""
    left_out: dict[str, str] = field(default_factory=dict)
    schedules: Schedules = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """What is known of a run before it writes anything.

    Attributes:
        images: To train on.
        validation: Held out.
        about: Config and data, as every checkpoint says them.
        resume: Where it goes on; None = it begins.
        asked: What evaluations along the way measure; None = there are none.
        best: The number that chooses the best tokenizer, and whether a larger one is better; None = none does.
        shown: What the pictures along the way and those of the report show.
        callbacks: Those of the config, by name.
    """

    images: Images
    validation: Images
    about: dict[str, Any]
    resume: Checkpoint | None
    asked: Settings | None
    best: tuple[str, bool] | None
    shown: Batch
    callbacks: dict[str, Callback]


def prepare(run: Run, processes: int, images: Images, about: dict[str, Any], resume: Checkpoint | None) -> Plan:
    """Try the parts, and find all that the run needs besides: its best number, images and weights.

    Args:
        run: Its micro-batches are known.
        processes: That share a batch.
        images: To train on.
        about: Config and data, as every checkpoint says them.
        resume: Where the run goes on; None = it begins.

    Raises:
        InputError: If parts do not go together, or something is not to be had. Nothing is written.
    """
    parts = _beginning(run, resume)
    for name, part in parts.items():
        find_weights(part, name)
    _require_told(run, images)
    check_nets(run.objective, run.optimizer)
    _try_optimizers(run)
    _rehearse(run, processes)
    asked = None
    if run.trainer.evaluate_every:
        require_boxes(run.measures, run.boxes)
        asked = Settings(run.measures, Protocol("offline"), seed=run.seed, untold=True, processes=processes)
    best = find_best(run.trainer.best, asked, run.tokenizer, run.image_size) if asked is not None else None
    callbacks = build_callbacks(run.callbacks)
    side = run.image_size
    measured = numbers(asked, run.tokenizer, (side, side)) if asked is not None and callbacks else {}
    _require_directions(callbacks, measured)
    better = {name: quantity.higher_is_better for name, quantity in measured.items()}
    check_monitors(callbacks, better, run.trainer.evaluate_every)
    validation = held_out(run)
    say_remarks(validation.remarks, said=images.remarks)
    shown = choose_shown(validation)
    for name, part in parts.items():
        _fetch_weights(part, name)
    if run.init_from is not None:
        take_weights(run.tokenizer, run.init_from.path, run.init_from.parts)
    if resume is None:
        check_maps(run.tokenizer.space, images)
    return Plan(images, validation, about, resume, asked, best, shown, callbacks)


def _require_directions(callbacks: dict[str, Callback], measured: dict[str, Quantity]) -> None:
    """Ask which way is better of a number that a callback looks at, where its class leaves that open."""
    for name, callback in callbacks.items():
        quantity = measured.get(str(getattr(callback, "monitor", None)))
        if quantity is not None and quantity.higher_is_better is None and quantity.asks:
            raise InputError(
                f"callback.{name}.monitor={quantity.name}: its class does not say which way is better; give "
                f"+{quantity.asks}=true or false"
            )


def held_out(run: Run) -> Images:
    """The images that the run measures, each time afresh, with what the tokenizer's condition reads."""
    images = with_channels(run.data.validation(run.image_size), run.tokenizer.channels)
    return told(with_boxes(images, run.boxes, run.data), run.tokenizer.condition)


def _require_told(run: Run, images: Images) -> None:
    """Refuse images without a word for a tokenizer or an objective that reads one, and say it if some have none."""
    reads, what, out = run.objective.reads, "images to train on", "or leave it out by ~objective.alignments.NAME"
    remedy = {kind: f"{data}, {out}" for kind, data in DATA_WITH.items()}
    sentences = [require_read(images, reads, "an alignment", what, remedy, "they take no part in its alignment")]
    if run.tokenizer.condition is not None:
        parts = ((images, "images to train on"), (held_out(run), "images held out"))
        sentences += [require_told(part, run.tokenizer.condition, what) for part, what in parts]
    for sentence in filter(None, sentences):
        if launched_rank() == 0:
            log.warning("%s", sentence)


def check_resume(run: Run, resume: Checkpoint, images: Images) -> None:
    """Say what differs from the run so far; InputError if that is more than may. Rank 0 compares the images."""
    for line in check_changes(resume.about["config"], run.config, list(run.allow_change)):
        log.warning("going on with a changed config: %s", line)
    before = resume.about["data"]
    if "data" not in run.allow_change and launched_rank() == 0 and not images.was(before):
        raise InputError(
            f"the training images are not those of the run so far ({_size(before)} then, {_size(images.about)} now); "
            "bring them back, or say allow_change=[data] to go on all the same"
        )


def _rehearse(run: Run, processes: int) -> None:
    """Try the last step, which has every term that ramps up or starts late."""
    for bucket in (None, *run.buckets):
        _last_step(run, processes, bucket)(run.tokenizer, run.objective)


def peak_images(run: Run, processes: int, device: torch.device) -> float | None:
    """Images per second at which all GPUs would compute at their peak; None if their peak or the step is not known.

    It is that of the last step, with all losses and nets. Earlier steps may have less to do.
    """
    peak = peak_tflops(device)
    if peak is None or run.trainer.precision != "bf16" or launched_rank() != 0:
        return None
    flops = _last_step(run, processes, None).flops(run.tokenizer, run.objective)
    return peak * 1e12 * processes / flops if flops else None


def _last_step(run: Run, processes: int, bucket: tuple[int, int] | None) -> Rehearsal:
    settings = run.trainer
    images = settings.batch_size // (processes * settings.accumulate)
    return Rehearsal(images, run.image_size, settings.max_steps - 1, settings.precision == "bf16", run.config, bucket)


def _try_optimizers(run: Run) -> None:
    sharded = run.trainer.strategy == "fsdp"
    try_optimizer(run.optimizer, "optimizer", sharded)
    make_optimizer(run.tokenizer, run.optimizer)
    for name in run.objective.nets():
        try_optimizer(run.optimizer.for_net(name), net_key(name), sharded)


def _beginning(run: Run, resume: Checkpoint | None) -> dict[str, nn.Module]:
    """The parts that begin with published weights of their own, by their sections."""
    found: dict[str, nn.Module] = {"objective": run.objective}
    if run.init_from is not None:
        return found | {name: part for name, part in run.tokenizer.named_children() if not run.init_from.takes(name)}
    return found | (dict(run.tokenizer.named_children()) if resume is None else {})


def _fetch_weights(root: nn.Module, key: str = "") -> None:
    """Read published weights, and name the parts that ought to have some and go without."""
    fetch_weights(root, key)
    for name, part in root.named_modules(prefix=key):
        if isinstance(part, Pretrained) and part.weights == RANDOM and not part.from_scratch:
            warn_random(name)


def _size(about: dict[str, Any]) -> str:
    return f"{about['shards']} shards" if "shards" in about else str(about.get("images"))
