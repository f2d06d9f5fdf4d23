"""The schema of every command's config, and checks that name all mistakes before anything is built or written."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra.conf import HydraConf
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import setup_globals
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

from imtok.conditions.given import ConditionConfig, DecodeConditionConfig
from imtok.data.schema import SPLITS, PackConfig
from imtok.errors import InputError
from imtok.explain import compose_or_explain, is_read
from imtok.export.schema import ConvertConfig, PublishConfig
from imtok.export.views import AUGMENTS
from imtok.folders import config_folder
from imtok.hints import Hints
from imtok.measures.schema import NO_MEASURE, MeasureConfig, ScoreConfig
from imtok.optimizer_section import optimizer_problems, read_optimizer
from imtok.overrides import in_full, settle, texts, typed_keys
from imtok.signatures import check_parts
from imtok.swaps import fit_parts
from imtok.training.ranges import unusable_numbers
from imtok.training.settings import EMASettings, InitFrom, TrainerSettings
from imtok.unread import outside, unread_keys, without


@dataclass
class TrainConfig:
    """Sections of a training config, in the order in which data flows through them."""

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
    seed: int = 0
    out: str | None = None
    ckpt: str | None = None
    init_from: Any = None
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
        if self.seed < 0:
            problems.append(f"seed must not be negative, got {self.seed}")
        if self.judges not in ("required", "found"):
            problems.append(f"judges must be required or found, got {self.judges}")
        if self.ckpt and not self.out and self.ckpt == "last":
            problems.append("ckpt=last needs out=DIR: the run folder to go on with")
        try:
            source = InitFrom.read(self.init_from)
        except ValueError as error:
            problems.append(str(error))
            source = None
        nets = [name for name in self.freeze if name in ("encoder", "decoder")]
        untaken = [name for name in nets if source is not None and not source.takes(name)]
        if nets and not self.init_from and not self.ckpt:
            problems.append(f"freeze={nets} needs init_from=RUN: a net that stays as it is must have learnt before")
        if untaken:
            problems.append(f"freeze={nets} needs init_from.parts to hold {', '.join(untaken)} as well")
        if self.ckpt and self.init_from:
            problems.append("ckpt (go on with a run) and init_from (start from weights) exclude each other")
        several = self.trainer.num_nodes > 1 or str(self.trainer.devices) not in ("auto", "1")
        if not self.out and several and not problems:
            problems.append("out=DIR must be given with several processes, so that all of them write to one folder")
        return problems


@dataclass
class ImagesConfig:
    """A tokenizer, a data set (None = that of the tokenizer's run) and where the results go."""

    tokenizer: str = MISSING
    data: Any = None
    out: str | None = None
    split: str | None = None
    image_size: int | None = None
    batch_size: int = 64
    workers: int = 0
    device: str = "auto"
    threads: int | None = None
    condition: ConditionConfig = field(default_factory=ConditionConfig)

    def check(self) -> list[str]:
        """What is out of range, one line each."""
        problems = self.condition.check()
        if self.split not in (None, *SPLITS):
            problems.append(f"split must be {', '.join(SPLITS)} or null (the data's own choice), got {self.split}")
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
    extractor: Any = None

    def check(self) -> list[str]:
        """What is out of range, one line each."""
        problems = [*ImagesConfig.check(self), *MeasureConfig.check(self)]
        if self.tokenizer == [] or not isinstance(self.tokenizer, (str, list)):
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
    condition: DecodeConditionConfig = field(default_factory=DecodeConditionConfig)

    def check(self) -> list[str]:
        """What is out of range, one line each."""
        least_one = {"batch_size": self.batch_size, "image_size": self.image_size, "threads": self.threads}
        problems = [f"{name} must be at least 1, got {v}" for name, v in least_one.items() if v is not None and v < 1]
        return problems + self.condition.check()


# What _target_ builds; all else is plain values.
SECTIONS = (
    *("data", "encoder", "quantizer", "regularizer", "decoder", "space", "condition", "objective"),
    *("optimizer", "schedule", "protocol", "extractor", "format"),
)
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


def check_command(command: str, overrides: Sequence[str], job: int | None = None) -> None:
    """Compose what Hydra would compose, and raise InputError that lists every mistake, each with its fix.

    Args:
        command: A key of ``SCHEMAS``.
        overrides: Hydra overrides of the command line, without sweeps.
        job: The number of these among the jobs of a sweep; None = no sweep.
    """
    register_schemas()
    overrides = in_full(command, overrides)
    for override in overrides:
        _require_folders(override)
    hints = Hints(command, config_folder())
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config, problems = compose_or_explain(command, overrides, hints)
        asked = any("hydra:" in text for _, text in texts(OmegaConf.to_container(config)))
        hydra_config = compose(command, list(overrides), return_hydra_config=True).hydra if asked else config
        if any(override.startswith(("+hydra.", "++hydra.")) for override in overrides) and not problems:
            own = OmegaConf.to_container(compose(command, list(overrides), return_hydra_config=True).hydra)
            given = {re.split("[.=]", override)[1] for override in overrides if "hydra." in override}
            problems += [f"hydra.{key}: nothing reads it" for key in outside(own, HydraConf) if key in given]
    with _like_job(hydra_config, job):
        problems += settle(config, job)
        if not problems:
            fit_parts(config, command, overrides)
        problems += check_config(config, SCHEMAS[command], hints, typed_keys(overrides))
    if problems:
        lines = "\n".join(f"  {problem}" for problem in dict.fromkeys(problems))
        raise InputError(f"{len(set(problems))} mistake{'s' * (len(set(problems)) > 1)} in the config:\n{lines}")


def check_config(
    config: DictConfig, schema: Any, hints: Hints | None = None, typed: set[str] | None = None
) -> list[str]:
    """Everything wrong with a composed config: unread keys, missing values, wrong types, settings out of range.

    Args:
        config: As it was composed.
        schema: The dataclass of all that the command reads.
        hints: Of the command, for what a mistaken key may have meant.
        typed: Keys that the user gave. All others come from files; None = not known.

    Returns:
        A line for each mistake.
    """
    secret = [
        f"{path}: {_ENVIRONMENT} (got {value})"
        for path, value in texts(OmegaConf.to_container(config))
        if re.search(r"\$\{\s*oc\.env\b", value)
    ]
    if secret:
        return secret
    try:
        missing = OmegaConf.missing_keys(config)
        problems = [f"{key}: required and not set; give {key}=VALUE" for key in sorted(missing)]
        with _without_environment():
            plain = OmegaConf.to_container(config, resolve=True)
            unread = unread_keys(config, schema)
    except (OmegaConfBaseException, RecursionError) as error:
        key = getattr(error, "full_key", None) or "the config"
        reason = str(error) if "recursion" not in str(error) else "interpolations go round in a circle"
        line = re.sub("^.* raised while resolving interpolation: ", "", reason).splitlines()[0]
        variable = re.search(r"Interpolation key '(\w+)' not found", line)
        meant = f"; the environment's is ${{oc.env:{variable[1]}}}" if variable and variable[1] in os.environ else ""
        return [f"{key}: {line}{meant}"]
    problems += unusable_numbers(OmegaConf.to_container(config))
    plain = cast(dict[str, Any], plain)
    known = without(config, unread)
    problems += [f"{key}: nothing reads it{hints.key(key, known) if hints else ''}" for key in unread]
    sections = {one.name for one in fields(schema) if one.name in SECTIONS and one.type is Any}
    for name in (one.name for one in fields(schema)):
        if name not in plain:
            problems.append(f"{name}: must not be taken out, since the command reads it; give another value")
        elif name in sections and isinstance(plain[name], dict) and "_target_" not in (plain[name] or "_target_"):
            problems.append(_without_class(name, plain[name], typed))
    problems += check_parts(plain, unread, typed)
    mistyped = optimizer_problems(plain["optimizer"]) if "optimizer" in plain else []
    problems += mistyped
    if not missing and not unread and not mistyped:
        problems += OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), config)).check()  # type: ignore
    return problems


def _without_class(name: str, section: dict[str, Any], typed: set[str] | None) -> str:
    """What is wrong with a section of some keys and no ``_target_``."""
    keys = [f"{name}.{key}" for key in section]
    if typed is None or f"{name}._target_" in typed or typed & set(keys):
        return f"{name}._target_: required and not set; it says which class to build"
    left = f"a recipe, its size or another option sets {', '.join(section)} of another choice"
    return f"{name}: has keys but no class (_target_), since {left}; leave out by {' '.join(f'~{key}' for key in keys)}"


def _require_folders(override: str) -> None:
    """Refuse folders of YAML files that are not there, which Hydra passes over."""
    if not override.startswith("hydra.searchpath=") or not is_read(override):
        return
    places = OverridesParser.create().parse_override(override).value()
    for place in places if isinstance(places, list) else ():
        folder = str(place).removeprefix("file://")
        if "://" not in folder and "${" not in folder and not Path(folder).is_dir():
            raise InputError(f"hydra.searchpath: there is no folder {folder}; give the one that holds your YAML files")


def suggestion(command: str, key: str) -> str:
    """What a key may have meant that a command does not have; begins with "; "."""
    register_schemas()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return Hints(command, config_folder()).key(key, compose(command))


_ENVIRONMENT = (
    "must not read the environment, since configs are written to the run folder; only paths may; write the value out"
)


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


@contextmanager
def _like_job(hydra_config: DictConfig, job: int | None) -> Iterator[None]:
    """Resolve ``${hydra:...}`` as Hydra does when it runs the job."""
    known: dict[str, Any] = {"runtime.cwd": os.getcwd(), "job.num": job, "job.id": job}  # noqa: PTH109, Hydra's word

    def answer(key: str) -> Any:
        value = known[key] if key in known else OmegaConf.select(hydra_config, key)
        if value is None:
            instead = "; only a sweep (-m) has one" if key in known else ""
            raise ValueError(f"hydra:{key} has no value here{instead}")
        return value

    OmegaConf.register_new_resolver("hydra", answer, replace=True)
    try:
        yield
    finally:
        setup_globals()
