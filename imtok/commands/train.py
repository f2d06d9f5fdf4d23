"""``imtok train``, the same as ``python train.py``: trains a tokenizer and measures it."""

import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import MISSING, DictConfig, OmegaConf
from rich.console import Console
from rich.markup import escape

from imtok.build import build_data, build_part, build_tokenizer, by_name, require_classes
from imtok.command_line import go_on, job_words, output_folder, this_job
from imtok.conditions.base import pinned
from imtok.config import read_keys
from imtok.data.reading.augment import build_augment
from imtok.distributed import launched_rank
from imtok.export.quantize import words_for_ids
from imtok.measures.named import NO_MEASURE
from imtok.measures.report.writing import BESIDE, PAGE, show
from imtok.objectives.base import Objective
from imtok.objectives.judges import build_with_found
from imtok.optimizer_section import read_optimizer, typed_section
from imtok.paste import imtok_line
from imtok.pixels import CHANNELS
from imtok.stages import first_stages, names_a_run
from imtok.sweeps import chosen, note_job
from imtok.text import terminal
from imtok.training.buckets import read_buckets
from imtok.training.folder import has_begun, left_out_so_far
from imtok.training.rates import build_schedules
from imtok.training.run import Run, train
from imtok.training.settings import EMASettings, InitFrom, TrainerSettings
from imtok.training.told_sizes import tell_sizes

_RESULTS = {
    f"evaluation/{PAGE}": BESIDE,
    "tokenizer": "the tokenizer: config.json and model.safetensors (averaged weights), codebook included",
    "best": "the best tokenizer by trainer.best",
    "images": "reconstructions during training",
    "metrics.csv": "losses, usage and speed by step",
    "checkpoints": "to go on with: imtok train ckpt=last out=DIR",
}


@dataclass
class Keys:
    """Sections of a training config, in the order of the data; configs/train.yaml explains each."""

    data: Any = MISSING
    encoder: Any = MISSING
    quantizer: Any = MISSING
    regularizer: Any = None
    decoder: Any = MISSING
    space: Any = None
    condition: Any = None
    objective: Any = MISSING
    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    optimizer: Any = MISSING
    schedule: Any = None
    ema: EMASettings = field(default_factory=EMASettings)
    logger: Any = None
    callback: Any = None
    measure: Any = None
    name: str = "default"
    note: str | None = None
    image_size: int = 64
    channels: int = 3
    in_space: list[str] = field(default_factory=list)
    seed: int = 0
    out: str | None = None
    ckpt: str | None = None
    init_from: Any = None
    stages: Any = None
    freeze: list[str] = field(default_factory=list)
    allow_change: list[str] = field(default_factory=list)
    judges: str = "required"

    def __post_init__(self) -> None:
        if isinstance(self.optimizer, dict):
            self.optimizer = read_optimizer(self.optimizer)

    def check(self) -> list[str]:
        """What is out of range, one line each."""
        problems = [*self.trainer.check(), *self.optimizer.check(self.trainer.max_steps)]
        problems += self.ema.check()
        if self.trainer.evaluate_every and not any(section is not None for section in (self.measure or {}).values()):
            problems.append(f"trainer.evaluate_{NO_MEASURE}")
        if self.image_size < 1:
            problems.append(f"image_size must be at least 1 pixel, got {self.image_size}")
        if self.channels not in CHANNELS:
            problems.append(f"channels must be 1 (grey), 3 (RGB) or 4 (RGB and alpha), got {self.channels}")
        if self.seed < 0:
            problems.append(f"seed must not be negative, got {self.seed}")
        if self.judges not in ("required", "found"):
            problems.append(f"judges must be required or found, got {self.judges}")
        if self.ckpt and not self.out and self.ckpt == "last":
            problems.append("ckpt=last needs out=DIR: the run folder to go on with")
        try:
            source = InitFrom.read(self.init_from, before="the stage before" if self.stages else None)
        except ValueError as error:
            problems.append(str(error))
            source = None
        nets = [name for name in self.freeze if name in ("encoder", "decoder")]
        untaken = [name for name in nets if source is not None and not source.takes(name)]
        if self.stages is not None and not isinstance(self.stages, dict):
            problems.append(
                f"stages must be recipes with what differs from each, as {{NAME:{{}}}}, got {self.stages!r}"
            )
        if nets and not self.init_from and not self.ckpt and not self.stages:
            problems.append(f"freeze={nets} needs init_from=RUN: a net that stays as it is must have learnt before")
        if untaken:
            problems.append(f"freeze={nets} needs init_from.parts to hold {', '.join(untaken)} as well")
        if self.ckpt not in (None, "last") and self.init_from:
            problems.append("ckpt=FOLDER (go on with a run) and init_from (start from weights) exclude each other")
        several = self.trainer.num_nodes > 1 or str(self.trainer.devices) not in ("auto", "1")
        if not self.out and several and not problems:
            problems.append("out=DIR must be given with several processes, so that all of them write to one folder")
        return problems


def run(config: DictConfig) -> float | None:
    """Train, and say what there is now and what to do with it.

    Returns:
        The number of the final report that ``trainer.best`` names, or its PSNR, for Hydra's sweepers; None if the run
        is not at its end.
    """
    console = Console(highlight=False)
    folder = output_folder(config, config.name)
    # Train the stages before, if there are some: the last of them is what this one begins from.
    source = first_stages(config, folder, console)
    if source is not None:
        begun = cast(InitFrom, InitFrom.read(config.init_from, source))
        config.init_from = asdict(begun) if begun.parts else begun.path
    elif not names_a_run(config.init_from):
        config.init_from = None
    again = imtok_line("eval", tokenizer=folder, split="val")
    made = replace(build_run(config, folder), measured_by=again)
    outcome, shown = train(made), escape(str(folder))
    console.quiet = launched_rank() != 0
    # A run that did not come to its end says how to go on.
    if outcome.finished_before:
        console.print(f"already finished: {shown} is at step {outcome.step}, its last; nothing was changed")
        return None
    if outcome.signal:
        console.print(f"stopped by signal {outcome.signal} after step {outcome.step}, all saved")
        console.print(f"go on with: {go_on(folder)}", soft_wrap=True, markup=False)
        sys.exit(128 + outcome.signal)
    if outcome.report is None:
        why = "trainer.lightning" if made.trainer.lightning and made.trainer.stop_at is None else "trainer.stop_at"
        console.print(f"stopped after step {outcome.step} as {why} says")
        console.print(f"go on with: {go_on(folder)}", soft_wrap=True, markup=False)
        return None
    # A run that did says what it found, what lies where, and what may follow.
    measured = "held out of training" if made.data.measures_apart else "of which some were trained on"
    show(outcome.report, console, f", {measured}")
    if made.note:
        console.print(terminal(made.note), soft_wrap=True)
    for name, what in _RESULTS.items():
        if (folder / name).exists():
            console.print(f"  {escape(str(folder / name))}  [dim]{what}[/dim]", soft_wrap=True)
    console.print(f"evaluate: {again}", soft_wrap=True, markup=False)
    quantizer = made.tokenizer.quantizer
    if quantizer.vocab_sizes:
        following = imtok_line("export", tokenizer=folder, split="train", out=folder / "tokens")
        console.print(f"export:   {following}", soft_wrap=True, markup=False)
    else:
        following = imtok_line("quantize", tokenizer=folder, **words_for_ids(quantizer), out=folder / "quantized")
        console.print(f"give ids: {following}", soft_wrap=True, markup=False)
    value, numbers = chosen(outcome.report.metrics, made.trainer.best)
    note_job(job_words(), numbers, folder)
    return value


def build_run(config: DictConfig, folder: Path) -> Run:
    """Build everything that a training config describes.

    Raises:
        InputError: If a part refuses its settings, or has some and is none.
    """
    # Plain values, as the run stores them.
    plain = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    if not plain.get("condition"):
        plain.pop("condition", None)  # none leaves no trace: runs and tokenizers of before there were any are the same
    require_classes(plain)
    if plain["trainer"]["precision"] == "auto":
        plain["trainer"]["precision"] = config.trainer.precision = _precision(plain["trainer"])
    plain["optimizer"] = typed_section(plain["optimizer"])
    typed = read_keys(config, Keys)
    # Parts: the tokenizer first, since the objective is told its sizes.
    tokenizer = build_tokenizer(plain)
    if tokenizer.condition is not None:
        tokenizer.condition.prepare()
        tokenizer.config = pinned(tokenizer.config or {}, tokenizer.condition)
        plain["condition"] = tokenizer.config["condition"]
    tell_sizes(plain["objective"], tokenizer, typed.image_size)
    if typed.judges == "found":
        objective, left_out = build_with_found(plain["objective"], left_out_so_far(folder, typed.ckpt))
    else:
        objective, left_out = cast(Objective, build_part(plain, "objective")), dict[str, str]()
    return Run(
        tokenizer=tokenizer,
        objective=objective,
        data=build_data(plain),
        augment=build_augment(plain["data"].get("augment")),
        boxes=plain["data"].get("boxes"),
        buckets=read_buckets(plain["data"].get("buckets"), tokenizer, typed.image_size),
        trainer=typed.trainer,
        optimizer=typed.optimizer,
        ema=typed.ema,
        folder=folder,
        image_size=typed.image_size,
        seed=typed.seed,
        config=plain,
        config_yaml=OmegaConf.to_yaml(OmegaConf.create(plain)),
        ckpt=typed.ckpt,
        init_from=None if typed.ckpt == "last" and has_begun(folder) else InitFrom.read(typed.init_from),
        measures=by_name(plain["measure"]),
        loggers=by_name(typed.logger),
        callbacks=by_name(typed.callback),
        allow_change=tuple(typed.allow_change),
        note=typed.note or "",
        command=this_job(folder),
        left_out=left_out,
        schedules=build_schedules(typed.schedule, typed.optimizer, typed.trainer.max_steps, objective.nets()),
    )


def _precision(trainer: dict[str, Any]) -> str:
    """What ``trainer.precision=auto`` is on this machine."""
    on_gpu = torch.cuda.is_available() and trainer["accelerator"] not in ("cpu", "mps", "tpu")
    return "bf16" if on_gpu and torch.cuda.is_bf16_supported() else "fp32"
