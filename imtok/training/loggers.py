"""Lightning's loggers beside ``metrics.csv``: as many as the config names, none of which can stop a run."""

import csv
import importlib.util
import logging
import os
import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial, wraps
from pathlib import Path
from typing import Any

import numpy as np
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.logger import DummyLogger
from PIL import Image

from imtok.errors import InputError
from imtok.files import read_json, write_json
from imtok.training.parts import build, find_class
from imtok.training.wandb import Wandb

log = logging.getLogger(__name__)

_METHODS = ("log_metrics", "log_hyperparams", "log_image", "log_graph", "save", "finalize", "after_save_checkpoint")
_TAKEN_BACK = (TensorBoardLogger, CSVLogger)  # their rows of later steps go when a run goes on from an earlier one
PICTURES = "reconstructions"


class Loggers:
    """What is logged, sent to every logger of a run; one that fails is off for the rest of it, with a warning.

    A run that goes on goes on in the same files, in the same run of wandb and of MLflow, and sends no row twice: what
    TensorBoard and CSV files hold of later steps is dropped, and others are not sent again what they have.

    Args:
        sections: The config's loggers by name, each with ``_target_``.
        folder: The run folder, where loggers write that are not told another place.
        config: Of the run, as plain values.
        resumed: The step that the run goes on from; None = it begins.
        main: Whether this is rank 0. The others log nothing.

    Attributes:
        loggers: What Lightning's trainer is given: a logger that does nothing stands for one that is off.
        places: Names in the run folder that :meth:`start` has made.

    Raises:
        InputError: If a class is no logger, or refuses its arguments. Nothing is written.
    """

    def __init__(
        self, sections: Mapping[str, Any], folder: Path, config: dict[str, Any], resumed: int | None, main: bool = True
    ) -> None:
        self.folder = folder
        self.config = config
        self.resumed = resumed
        self._path = folder / "loggers.json"
        self._known: dict[str, Any] = {}
        if main and resumed is not None and self._path.exists() and sections:
            self._known = read_json(self._path)
        self._built = {name: self._build(name, section) for name, section in sections.items()} if main else {}
        self._finalize: list[Callable[[str], Any]] = []
        self.loggers: list[Logger] = [DummyLogger() for _ in sections]
        self._started: dict[str, Logger] = {}
        self._on: dict[str, dict[str, bool]] = {name: {"on": True} for name in sections}
        self.places: set[str] = set()

    def start(self) -> None:
        """Open files and connections, once the folder is the run's."""
        before = {path.name for path in self.folder.iterdir()} if self._built else set[str]()
        for index, (name, built) in enumerate(self._built.items()):
            try:
                logger = built if isinstance(built, Logger) else built()
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    self._open(name, logger)
            except Exception as error:  # whatever it is, it must not stop a run
                log.warning("%s is off for the rest of this run (%s); metrics.csv has everything", name, error)
                continue
            self._finalize.append(logger.finalize)
            _guard(logger, name, self._on[name], self._sent(name, logger), self._keep)
            logger.finalize = lambda status: None  # Lightning would do it before the last numbers  # type: ignore
            self._started[name] = self.loggers[index] = logger
        self.places = {path.name for path in self.folder.iterdir()} - before if self._built else set[str]()

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Send the numbers of a step, by name."""
        numbers = {name: float(value) for name, value in values.items() if isinstance(value, (int, float))}
        for logger in self._started.values():
            logger.log_metrics(numbers, step)

    def picture(self, step: int, path: Path) -> None:
        """Send a picture file under a fixed name, to those that take pictures."""
        for name, logger in self._started.items():
            show = getattr(logger, "log_image", None)
            if show is None and isinstance(logger, TensorBoardLogger):
                show = _guarded(_add_image(logger), name, self._on[name])
            if show is None and isinstance(logger, MLFlowLogger):
                show = _guarded(_add_artifact(logger, "images"), name, self._on[name])
            if show is not None:
                show(PICTURES, [str(path)], step)

    def final(self, step: int, values: Mapping[str, float]) -> None:
        """Send the numbers of the report; and the report and the tokenizer to those that keep files."""
        self.log(step, {f"final/{name}": value for name, value in values.items()})
        files = {"report": self.folder / "evaluation", "tokenizer": self.folder / "tokenizer"}
        for name, logger in self._started.items():
            for what, place in files.items():
                if isinstance(logger, Wandb):
                    _guarded(logger.log_folder, name, self._on[name])(what, place)
                elif isinstance(logger, MLFlowLogger):
                    _guarded(_add_artifact(logger, what), name, self._on[name])(what, [str(place)], step)

    def flush(self) -> None:
        """Have on the disk what was logged so far: before a checkpoint says that it was."""
        for name, logger in self._started.items():
            logger.save()
            if isinstance(logger, TensorBoardLogger):
                _guarded(logger.experiment.flush, name, self._on[name])()

    def finish(self, failed: bool = False) -> None:
        """Close all of them."""
        for finalize, (name, logger) in zip(self._finalize, self._started.items(), strict=True):
            _guarded(finalize, name)("failed" if failed else "success")
            if isinstance(logger, WandbLogger):
                _guarded(logger.experiment.finish, name)()
        self._started, self._finalize = {}, []

    def _mlflow(self, name: str, given: dict[str, Any]) -> Logger:
        """MLflow's logger: on its server, or in a database of the run's own."""
        provided: dict[str, Any] = {"run_name": self.folder.name, "run_id": self._known.get(name, {}).get("run_id")}
        place, server = self.folder.absolute(), os.environ.get("MLFLOW_TRACKING_URI")
        provided["tracking_uri"] = server or f"sqlite:///{place}/mlflow.db"
        if not server and "tracking_uri" not in given:
            provided["artifact_location"] = (place / "mlruns").as_uri()
        return build(given, "logger", f"logger.{name}", provided)

    def _build(self, name: str, section: dict[str, Any]) -> Logger | Callable[[], Logger]:
        key = f"logger.{name}"
        found = find_class(section["_target_"], "logger", key)
        given = {argument: value for argument, value in section.items() if value is not None}
        provided: dict[str, Any] = {"save_dir": str(self.folder)}
        if issubclass(found, _TAKEN_BACK):
            provided |= {"name": name, "version": ""}
        if issubclass(found, TensorBoardLogger):
            given.setdefault("default_hp_metric", False)
            given.setdefault("filename_suffix", f".{time.time_ns()}")  # starts within a second have files of their own
            if self.resumed is not None:
                given.setdefault("purge_step", self.resumed + 1)
        if issubclass(found, MLFlowLogger):
            if importlib.util.find_spec("mlflow") is None:
                raise InputError(f"{key} needs mlflow: pip install mlflow (imtok's extra `mlflow`)")
            return partial(self._mlflow, name, given)  # its client opens its database at once
        if found is WandbLogger:
            try:
                return Wandb(self.folder, self.config, given)
            except (MisconfigurationException, TypeError, ValueError) as error:
                raise InputError(f"{key}: {str(error).splitlines()[0]}") from None
        return build(given, "logger", key, provided)

    def _open(self, name: str, logger: Logger) -> None:
        kept = _rows(logger, self.resumed) if isinstance(logger, CSVLogger) and self.resumed is not None else []
        if isinstance(logger, Wandb):
            logger.start()
        experiment = getattr(logger, "experiment", None)
        if isinstance(logger, CSVLogger) and experiment is not None and kept:
            experiment.metrics.extend(kept)
            experiment.save()
        if self.resumed is None and not isinstance(logger, WandbLogger):
            logger.log_hyperparams(self.config)
        if isinstance(logger, MLFlowLogger):
            self._known.setdefault(name, {})["run_id"] = logger.run_id
            self._keep()

    def _sent(self, name: str, logger: Logger) -> dict[str, int] | None:
        """The last step of each number that a logger was sent; None if it takes back what it has."""
        return None if isinstance(logger, _TAKEN_BACK) else self._known.setdefault(name, {}).setdefault("sent", {})

    def _keep(self) -> None:
        write_json(self._path, self._known)


def _guard(
    logger: Logger, name: str, state: dict[str, bool], sent: dict[str, int] | None, keep: Callable[[], None]
) -> None:
    """Let no method of a logger raise, and send nothing that was sent before."""
    before = dict(sent) if sent is not None else {}
    for method in _METHODS:
        if callable(getattr(type(logger), method, None)):
            setattr(logger, method, _guarded(getattr(logger, method), name, state))
    if sent is None:
        return
    plain, image = logger.log_metrics, getattr(logger, "log_image", None)

    @wraps(plain)
    def log_metrics(metrics: Mapping[str, Any], step: int | None = None) -> None:
        fresh = {key: value for key, value in metrics.items() if step is None or step > before.get(key, -1)}
        if fresh:
            plain(fresh, step)
        if step is not None and fresh:
            sent.update(dict.fromkeys(fresh, step))
            keep()

    logger.log_metrics = log_metrics  # type: ignore[method-assign]
    if image is not None:

        @wraps(image)
        def log_image(key: str, images: list[Any], step: int | None = None, **more: Any) -> None:
            if step is None or step > before.get(key, -1):
                image(key, images, step, **more)
                sent[key] = step if step is not None else -1
                keep()

        logger.log_image = log_image  # type: ignore[attr-defined]


def _guarded(method: Callable[..., Any], name: str, state: dict[str, bool] | None = None) -> Callable[..., Any]:
    """A method that warns where it would raise, and does nothing from then on."""
    state = state if state is not None else {"on": True}

    @wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not state["on"]:
            return None
        try:
            return method(*args, **kwargs)
        except Exception as error:
            state["on"] = False
            log.warning("%s is off for the rest of this run (%s); metrics.csv has everything", name, error)
            return None

    return call


def _add_image(logger: TensorBoardLogger) -> Callable[..., Any]:
    def add(key: str, images: list[str], step: int) -> None:
        with Image.open(images[0]) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        logger.experiment.add_image(key, pixels, step, dataformats="HWC")

    return add


def _add_artifact(logger: MLFlowLogger, what: str) -> Callable[..., Any]:
    def add(_key: str, paths: list[str], _step: int) -> None:
        for path in paths:
            send = logger.experiment.log_artifacts if Path(path).is_dir() else logger.experiment.log_artifact
            send(logger.run_id, path, what)

    return add


def _rows(logger: CSVLogger, last: int) -> list[dict[str, Any]]:
    """The rows of an earlier process up to a step, as its file has them."""
    path = Path(logger.log_dir) / "metrics.csv"
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        rows = [{key: value for key, value in row.items() if value} for row in csv.DictReader(file)]
    return [
        {**row, "step": int(row["step"])} for row in rows if row.get("step", "").isdigit() and int(row["step"]) <= last
    ]
