"""The schema of every command's config, and checks that name all mistakes before anything is built or written."""

import difflib
import inspect
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from hydra.utils import get_object
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

from imtok.data.schema import PackConfig
from imtok.errors import InputError
from imtok.evaluation.schema import MeasureConfig, ScoreConfig
from imtok.export.schema import ConvertConfig, PublishConfig
from imtok.export.views import AUGMENTS
from imtok.training.settings import EMASettings, OptimizerSettings, TrainerSettings

# Arguments that imtok.build passes itself, so that YAML files leave them out.
PROVIDED = {
    "encoder": {"out_dim", "image_size", "space"},
    "decoder": {"in_dim", "image_size", "space", "num_latents"},
}


@dataclass
class TrainConfig:
    """Sections of a training config, in the order in which data flows through them."""

    data: Any = MISSING
    encoder: Any = MISSING
    quantizer: Any = MISSING
    regularizer: Any = None
    decoder: Any = MISSING
    space: Any = None
    objective: Any = MISSING
    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    ema: EMASettings = field(default_factory=EMASettings)
    logger: str = "csv"
    name: str = "default"
    image_size: int = 64
    seed: int = 0
    out: str | None = None
    ckpt: str | None = None
    init_from: str | None = None
    freeze: list[str] = field(default_factory=list)
    allow_change: list[str] = field(default_factory=list)

    def check(self) -> list[str]:
        """What is out of range, one line each."""
        problems = [*self.trainer.check(), *self.optimizer.check(self.trainer.max_steps), *self.ema.check()]
        if self.image_size < 1:
            problems.append(f"image_size must be at least 1 pixel, got {self.image_size}")
        if self.seed < 0:
            problems.append(f"seed must not be negative, got {self.seed}")
        if self.logger not in ("csv", "wandb"):
            problems.append(f"logger must be csv or wandb, got {self.logger}")
        if self.ckpt and not self.out and self.ckpt == "last":
            problems.append("ckpt=last needs out=DIR: the run folder to go on with")
        nets = [name for name in self.freeze if name in ("encoder", "decoder")]
        if nets and not self.init_from and not self.ckpt:
            problems.append(f"freeze={nets} needs init_from=RUN: a net that stays as it is must have learnt before")
        if self.ckpt and self.init_from:
            problems.append("ckpt (go on with a run) and init_from (start from weights) exclude each other")
        if not self.out and (self.trainer.num_nodes > 1 or str(self.trainer.devices) not in ("auto", "1")):
            problems.append("out=DIR must be given with several processes, so that all of them write to one folder")
        return problems


@dataclass
class ImagesConfig:
    """A tokenizer, a data set and where the results go."""

    tokenizer: str = MISSING
    data: Any = MISSING
    out: str | None = None
    split: str | None = None
    image_size: int | None = None
    batch_size: int = 64
    workers: int = 0
    device: str = "auto"
    threads: int | None = None

    def check(self) -> list[str]:
        """What is out of range, one line each."""
        problems = []
        if self.split not in (None, "val", "train", "all"):
            problems.append(f"split must be val, train, all or null (the data's own choice), got {self.split}")
        for name in ("batch_size", "image_size", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                problems.append(f"{name} must be at least 1, got {value}")
        if self.workers < 0:
            problems.append(f"workers must not be negative, got {self.workers}")
        return problems


@dataclass
class EvalConfig(MeasureConfig, ImagesConfig):
    """Tokenizers, a data set, what to measure and where the report goes."""

    tokenizer: Any = MISSING
    protocol: Any = MISSING

    def check(self) -> list[str]:
        """What is out of range, one line each."""
        problems = [*ImagesConfig.check(self), *MeasureConfig.check(self)]
        if not self.tokenizer or not isinstance(self.tokenizer, (str, list)):
            problems.append(f"tokenizer must be a run folder, or several as [A,B], got {self.tokenizer!r}")
        return problems


@dataclass
class ExportConfig(ImagesConfig):
    """A tokenizer, a data set and where its tokens go."""

    shard_size: int = 10_000
    augment: str = "centre"

    def check(self) -> list[str]:
        """What is out of range, one line each."""
        problems = super().check()
        if self.shard_size < 1:
            problems.append(f"shard_size must be at least 1 image, got {self.shard_size}")
        if self.augment not in AUGMENTS:
            problems.append(f"augment must be one of {', '.join(AUGMENTS)}, got {self.augment}")
        if self.out is None and int(os.environ.get("WORLD_SIZE", 1)) > 1:
            problems.append("out=DIR must be given with several processes, so that all of them write to one folder")
        return problems


@dataclass
class QuantizeConfig(ImagesConfig):
    """A continuous tokenizer, the quantizer that is to give it ids, and images to fit and measure that on."""

    quantizer: Any = MISSING
    images: int = 1000
    split: str | None = "val"

    def check(self) -> list[str]:
        """What is out of range, one line each."""
        problems = super().check()
        if self.images < 1:
            problems.append(f"images to fit the quantizer to must be at least 1, got {self.images}")
        return problems


@dataclass
class DecodeConfig:
    """A tokenizer, ids and where their pictures go."""

    tokenizer: str = MISSING
    ids: str = MISSING
    out: str = MISSING
    image_size: int | None = None
    batch_size: int | None = None
    device: str = "auto"
    threads: int | None = None

    def check(self) -> list[str]:
        """What is out of range, one line each."""
        least_one = {"batch_size": self.batch_size, "image_size": self.image_size, "threads": self.threads}
        return [f"{name} must be at least 1, got {v}" for name, v in least_one.items() if v is not None and v < 1]


SCHEMAS: dict[str, Any] = {
    "train": TrainConfig,
    "eval": EvalConfig,
    "export": ExportConfig,
    "convert": ConvertConfig,
    "publish": PublishConfig,
    "quantize": QuantizeConfig,
    "decode": DecodeConfig,
    "score": ScoreConfig,
    "pack": PackConfig,
}


def register_schemas() -> None:
    """Make ``defaults: [train_schema, ...]`` available to the YAML files."""
    for command, schema in SCHEMAS.items():
        ConfigStore.instance().store(f"{command}_schema", schema)


def config_folder() -> Path:
    """The folder of YAML files: packed into the package, or beside it in a checkout."""
    package = Path(__file__).parent
    packed = package / "configs"
    return packed if packed.is_dir() else package.parent / "configs"


def check_command(command: str, overrides: Sequence[str]) -> None:
    """Compose what Hydra would compose, and raise InputError that lists every mistake, each with its fix.

    Args:
        command: A key of ``SCHEMAS``.
        overrides: Hydra overrides of the command line, without sweeps.
    """
    register_schemas()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config, problems = _compose(command, overrides)
    problems += check_config(config, SCHEMAS[command])
    if problems:
        lines = "\n".join(f"  {problem}" for problem in dict.fromkeys(problems))
        raise InputError(f"{len(set(problems))} mistake{'s' * (len(set(problems)) > 1)} in the config:\n{lines}")


def check_config(config: DictConfig, schema: Any) -> list[str]:
    """Everything wrong with a composed config: missing values, wrong arguments and types, settings out of range."""
    secret = [
        f"{path}: {_ENVIRONMENT} (got {value})"
        for path, value in _strings(OmegaConf.to_container(config))
        if re.search(r"\$\{\s*oc\.env\b", value)
    ]
    if secret:
        return secret
    try:
        missing = OmegaConf.missing_keys(config)
        problems = [f"{key}: required and not set; give {key}=VALUE" for key in sorted(missing)]
        with _without_environment():
            plain = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        return [f"{error.full_key}: {str(error).splitlines()[0]}"]
    for path, node in _targets(plain):
        problems += _check_node(path, node, PROVIDED.get(path, set()))
    if not missing:
        problems += OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), config)).check()  # type: ignore
    return problems


_ENVIRONMENT = "must not read the environment, since configs are written to the run folder; write the value out"


@contextmanager
def _without_environment() -> Iterator[None]:
    """Resolve a config without the environment, however an interpolation may spell it (``${oc.${name}:KEY}``)."""

    def refuse(*_: Any) -> None:
        raise ValueError(_ENVIRONMENT)

    OmegaConf.register_new_resolver("oc.env", refuse, replace=True)
    try:
        yield
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)


def _compose(command: str, overrides: Sequence[str]) -> tuple[DictConfig, list[str]]:
    """Compose; where that fails, leave out the overrides that fail and say why of each."""
    try:
        return compose(command, overrides=list(overrides)), []
    except (HydraException, OmegaConfBaseException):
        pass
    groups = {path.name for path in config_folder().iterdir() if path.is_dir()}
    accepted, problems = list[str](), list[str]()
    for override in sorted(overrides, key=lambda override: override.split("=")[0] not in groups):  # groups first
        try:
            compose(command, overrides=[*accepted, override])
            accepted.append(override)
        except (HydraException, OmegaConfBaseException) as error:
            problems.append(_explain(override, error, compose(command, overrides=accepted)))
    return compose(command, overrides=accepted), problems


def _explain(override: str, error: Exception, config: DictConfig) -> str:
    key, separator, value = override.lstrip("+~").partition("=")
    text = str(error)
    if not separator and not override.startswith("~"):
        return f"{override}: not an override; write KEY=VALUE"
    if "Could not find" in text and "Available options" in text:
        options = re.findall(r"^\t(\S+)$", text, flags=re.MULTILINE)
        return f"{key}={value}: no such option{_hint(value, options)}"
    *parents, name = key.split(".")
    node = OmegaConf.select(config, ".".join(parents)) if parents else config
    keys = [str(known) for known in node] if OmegaConf.is_dict(node) else []  # `in` does not find what is ???
    if keys and name not in keys:
        return f"{key}: no such key{_hint(name, keys)}"
    cause = (error.__cause__ or error) if not text or "Error merging override" in text else error
    listed = bool(keys) and OmegaConf.is_list(OmegaConf.select(config, key)) and not value.startswith("[")
    if listed or "Ambiguous value" in str(cause):
        return f"{key}: a list takes brackets; write {key}=[{value}]"
    return f"{key}: {(str(cause).splitlines() or [type(cause).__name__])[0]}"


def _targets(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(node, dict):
        if "_target_" in node:
            yield path, node
        for key, value in node.items():
            yield from _targets(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _targets(value, f"{path}[{index}]")


def _strings(node: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(node, str):
        yield path, node
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield from _strings(value, f"{path}.{key}" if path else str(key))


def _check_node(path: str, node: dict[str, Any], provided: set[str]) -> Iterator[str]:
    target = node["_target_"]
    try:
        factory: Callable[..., Any] = get_object(target)
    except Exception as error:  # importing can raise anything
        yield f"{path}._target_: cannot import {target} ({str(error.__cause__ or error).splitlines()[0]})"
        return
    parameters = inspect.signature(factory).parameters
    hints = get_type_hints(factory.__init__ if inspect.isclass(factory) else factory)
    given = {key: value for key, value in node.items() if not key.startswith("_")}
    for key, value in given.items():
        if key not in parameters:
            yield f"{path}.{key}: {target.rpartition('.')[2]} has no argument {key}{_hint(key, list(parameters))}"
        elif value != "???" and not _fits(value, hints.get(key, Any)):
            yield f"{path}.{key}: must be {_name(hints[key])}, got {value!r}"
    for key, parameter in parameters.items():
        required = parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
        if required and key not in given and key not in provided:
            yield f"{path}.{key}: required by {target.rpartition('.')[2]} and not set; give +{path}.{key}=VALUE"


def _hint(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; there are {', '.join(sorted(known))}"


def _fits(value: Any, hint: Any) -> bool:
    """Whether a plain YAML value can be passed for ``hint``; unknown hints always fit."""
    origin, args = get_origin(hint), get_args(hint)
    if isinstance(value, dict) and "_target_" in value:
        return True
    if origin in (Union, UnionType):
        return any(_fits(value, arg) for arg in args)
    if origin is Literal:
        return value in args
    if hint is NoneType:
        return value is None
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (str, bool):
        return isinstance(value, hint)
    if inspect.isclass(origin) and issubclass(tuple, origin) and isinstance(value, list):  # Sequence, list, tuple
        items = args[:1] * len(value) if (len(args) == 2 and args[1] is ...) or len(args) == 1 else args
        return len(items) == len(value) and all(map(_fits, value, items))
    if inspect.isclass(origin) and issubclass(list, origin):
        return isinstance(value, list) and all(_fits(item, args[0]) for item in value)
    if inspect.isclass(origin) and issubclass(dict, origin):
        return isinstance(value, dict)
    return True


def _name(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " or ".join(map(str, get_args(hint)))
    return hint.__name__ if inspect.isclass(hint) and not get_args(hint) else re.sub(r"[\w.]+\.(\w+)", r"\1", str(hint))
