"""Rows of numbers and pictures of reconstructions, every so many steps."""

import logging
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning import Callback, LightningModule, Trainer
from typing_extensions import override

from imtok.distributed import from_main, gather_values
from imtok.errors import InputError
from imtok.files import read_json, write_json
from imtok.grid import draw_grid
from imtok.pixels import rgb_levels, to_float, to_rgb, to_uint8
from imtok.tokenizer import Tokenizer
from imtok.training.callbacks import Guests, tell
from imtok.training.ema import EMA
from imtok.training.health import Health
from imtok.training.loggers import Loggers
from imtok.training.pace import Pace
from imtok.training.progress import Bar, codes_in_use, memory_gb, reserved_gb
from imtok.training.records import Events, MetricsFile
from imtok.training.steps import Task
from imtok.types import Batch

log = logging.getLogger(__name__)


class Log(Callback):
    """Writes ``metrics.csv`` always, and the same to the loggers of the run.

    Args:
        folder: The run folder.
        every: Steps between rows.
        bar: Knows the speed.
        health: Says what goes wrong.
        events: Where it is noted, too.
        mirror: Where it goes as well; None = nowhere.
        peak_images: Images per second at which all devices would compute at their peak; None = not known.
    """

    def __init__(
        self,
        folder: Path,
        every: int,
        bar: Bar,
        health: Health,
        events: Events,
        mirror: Loggers | None,
        peak_images: float | None = None,
    ) -> None:
        self.path = folder / "metrics.csv"
        self.every = every
        self.bar = bar
        self.health = health
        self.events = events
        self.mirror = mirror
        self.file: MetricsFile | None = None
        self.peak_images = peak_images
        self.pace = Pace()

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Task)
        if trainer.is_global_zero:
            try:
                self.file = MetricsFile(self.path)
                self.file.forget_from(pl_module.step + 1)
            except OSError as error:
                self._warn(error)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, Task)
        step = pl_module.step
        if not pl_module.stepped or (step % self.every and step != pl_module.trainer_settings.max_steps):
            return
        terms = sorted(pl_module.meters.terms)
        row = pl_module.meters.read()
        windows = gather_values(pl_module.clock.read())
        tell(trainer, row)
        if not row or not trainer.is_global_zero or self.file is None:
            return
        for said in self.health.read(row, terms):
            log.warning("step %d: %s", step, said)
            self.events.write("health", step=step, said=said)
        for said in self.pace.read(windows):
            log.warning("step %d: %s", step, said)
            self.events.write("pace", step=step, said=said)
        row |= {
            "skipped": pl_module.skipped[0],
            "images_per_second": self.bar.images_per_step / max(1e-9, windows[0].step),
            "data_wait": windows[0].waited / max(1e-9, windows[0].step),
            "seconds_left": self.bar.seconds_left(step, pl_module.last_step),
            "memory_gb": memory_gb(),
            **reserved_gb(),
        }
        if self.peak_images is not None:
            row["mfu"] = row["images_per_second"] / self.peak_images
        self.bar.latest = row
        try:
            self.file.write(step, row)
        except OSError as error:  # a full disk must not stop the run: the next checkpoint will say so
            self._warn(error)
        if self.mirror is not None:
            self.mirror.log(step, row)
        if not sys.stderr.isatty():
            log.info(
                "step %d of %d  loss %.4f%s  %.0f images/s  %.1f GB  %s left",
                *(step, pl_module.last_step, row["loss"], f"  {used}" if (used := codes_in_use(row)) else ""),
                *(row["images_per_second"], row["memory_gb"], self.bar.left(step, pl_module.last_step)),
            )

    def _warn(self, error: OSError) -> None:
        log.warning("%s could not be written (%s)", self.path, error.strerror or error)


class PictureLog(Callback):
    """Writes originals over reconstructions (by the averaged weights) as ``images/step_N.png``.

    Args:
        folder: The run folder.
        every: Steps between pictures; 0 = none.
        batch: The images to show; always the same ones.
        ema: The averaged weights.
        mirror: Where it goes as well; None = nowhere.
    """

    def __init__(self, folder: Path, every: int, batch: Batch, ema: EMA[Tokenizer], mirror: Loggers | None) -> None:
        self.folder = folder / "images"
        self.every = every
        self.batch = batch
        self.ema = ema
        self.mirror = mirror

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, Task)
        step = pl_module.step
        if not (self.every and pl_module.stepped and step % self.every == 0):
            return
        tokenizer = self.ema.gather()
        if not trainer.is_global_zero:
            return
        path = self.folder / f"step_{step}.png"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with torch.no_grad(), self.ema.lent(pl_module.device):
                target = to_float(self.batch.image.to(pl_module.device)).to(tokenizer.decoder.last_layer.dtype)
                image = tokenizer(target, condition=tokenizer.condition_of(self.batch)).image
            aside = path.with_suffix(".tmp.png")
            draw_grid(list(rgb_levels(self.batch.image)), list(to_uint8(to_rgb(image)).cpu())).save(aside)
            aside.replace(path)
        except (OSError, ValueError) as error:
            log.warning("%s could not be written (%s)", path, error)
            return
        if self.mirror is not None:
            self.mirror.picture(step, path)


class Measured(NamedTuple):
    """What an evaluation along the way has found.

    Attributes:
        images: How many were measured.
        metrics: Numbers by name.
        absent: Why numbers are missing, by name.
    """

    images: int
    metrics: dict[str, float]
    absent: dict[str, str]


class Evaluation(Callback):
    """Measures the averaged weights on the same held-out images, and keeps the best ones by one of the numbers.

    Writes ``evaluation.csv``, the same to the loggers, and ``best/`` with ``tokenizer/`` and ``best.json``.

    Args:
        folder: The run folder.
        every: Steps between evaluations.
        measure: Gets the averaged weights and the device that they are on. Every rank calls it.
        best: Name of the number that chooses the best, and whether a larger one is better; None = nothing is kept.
        ema: The averaged weights.
        mirror: Where it goes as well; None = nowhere.
        guests: The callbacks of the config, for which this is a validation.
        name: Of the folder in ``best/``, to which the average saves itself.
    """

    def __init__(
        self,
        folder: Path,
        every: int,
        measure: Callable[[Any, torch.device], Measured],
        best: tuple[str, bool] | None,
        ema: EMA[Any],
        mirror: Loggers | None,
        guests: Guests,
        name: str = "tokenizer",
    ) -> None:
        self.folder = folder
        self.every = every
        self.measure = measure
        self.best = best
        self.ema = ema
        self.mirror = mirror
        self.guests = guests
        self.name = name
        self.file: MetricsFile | None = None

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Task)
        step = pl_module.step
        if trainer.is_global_zero:
            self.file = MetricsFile(self.folder / "evaluation.csv")
            self.file.forget_from(step + 1)
        # a checkpoint is written before the evaluation of its step, which may not have come about
        if step and step % self.every == 0:
            known = from_main(lambda: self._known(step))
            if known is None:
                self._evaluate(trainer, pl_module)
            else:  # what callbacks remember is from before it, too
                self.guests.before_evaluation(trainer, pl_module)
                self.guests.after_evaluation(trainer, pl_module, known)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, Task)
        if pl_module.stepped and pl_module.step % self.every == 0:
            self._evaluate(trainer, pl_module)

    def _known(self, step: int) -> dict[str, float] | None:
        """The numbers of a step that was evaluated before; None if it was not."""
        rows = self.file.rows if self.file is not None else []
        found = next((row for row in rows if int(row["step"]) == step), None)
        return {n: float(v) for n, v in found.items() if n not in ("step", "images")} if found is not None else None

    def _evaluate(self, trainer: Trainer, task: Task) -> None:
        self.guests.before_evaluation(trainer, task)
        self.guests.after_evaluation(trainer, task, self._measure(task))

    def _measure(self, task: Task) -> dict[str, float]:
        step, device = task.step, task.device
        net = self.ema.gather()
        with self.ema.lent(device):
            report = self.measure(net, device)
        if self.best is not None and self.best[0] not in report.metrics:
            reason = report.absent.get(self.best[0], f"there are {', '.join(report.metrics)}")
            raise InputError(f"trainer.best={self.best[0]} could not be measured at step {step}: {reason}")
        if self.file is None:
            return report.metrics
        try:
            self.file.write(step, {"images": report.images, **report.metrics})
            if self.best is not None:
                self._keep_best(step, report.metrics[self.best[0]], *self.best)
        except OSError as error:  # a full disk must not stop the run: the next checkpoint will say so
            log.warning("%s could not be written (%s)", error.filename or self.folder, error.strerror or error)
        if self.mirror is not None:
            self.mirror.log(step, {f"evaluation/{name}": value for name, value in report.metrics.items()})
        return report.metrics

    def _keep_best(self, step: int, value: float, name: str, higher: bool) -> None:
        path = self.folder / "best" / "best.json"
        if math.isnan(value):  # better than nothing and worse than nothing, so it would stay for ever
            return
        before = read_json(path) if path.exists() else {}
        if before.get("metric") == name and before["step"] <= step:  # a later one is of a killed run
            better = value > before["value"] if higher else value < before["value"]
            if not better:
                return
        self.ema.average.save(self.folder / "best" / self.name)
        write_json(path, {"metric": name, "value": value, "step": step})
