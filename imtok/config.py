"""Checks of a command's config that name all mistakes before anything is built or written.

What a command takes is the dataclass ``Keys`` of its own file, ``imtok/commands/NAME.py``.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar, cast

from hydra import compose, initialize_config_dir
from hydra.conf import HydraConf
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import setup_globals
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

from imtok.errors import InputError
from imtok.explain import compose_or_explain, is_read
from imtok.folders import config_folder
from imtok.hints import Hints
from imtok.optimizer_section import optimizer_problems
from imtok.overrides import in_full, settle, texts, typed_keys
from imtok.plain import PATH_OF
from imtok.signatures import check_parts
from imtok.swaps import fit_parts
from imtok.training.ranges import unusable_numbers
from imtok.unread import outside, unread_keys, without

_Keys = TypeVar("_Keys")
# What _target_ builds; all else is plain values.
SECTIONS = (
    *("data", "encoder", "quantizer", "regularizer", "decoder", "space", "condition", "objective", "prior"),
    *("optimizer", "schedule", "protocol", "extractor", "format", "classifier", "augmentation", "adapter"),
)


def keys_of(command: str) -> Any:
    """The dataclass of what a command takes, which stands in the command's own file."""
    return import_module(f"imtok.commands.{command}").Keys


def read_keys(config: DictConfig, keys: type[_Keys]) -> _Keys:
    """A config that was checked as the dataclass of its command."""
    return cast(_Keys, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(keys), config)))


def register_schemas(*commands: str) -> None:
    """Make ``defaults: [train_schema, ...]`` available to the YAML files of commands; of all if none is named."""
    for command in commands or PATH_OF:
        ConfigStore.instance().store(f"{command}_schema", keys_of(command))


def check_command(command: str, overrides: Sequence[str], job: int | None = None) -> None:
    """Compose what Hydra would compose, and raise InputError that lists every mistake, each with its fix.

    Args:
        command: One whose config Hydra composes.
        overrides: Hydra overrides of the command line, without sweeps.
        job: The number of these among the jobs of a sweep; None = no sweep.
    """
    register_schemas(command)
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
        problems += check_config(config, command, hints, typed_keys(overrides))
    if problems:
        lines = "\n".join(f"  {problem}" for problem in dict.fromkeys(problems))
        raise InputError(f"{len(set(problems))} mistake{'s' * (len(set(problems)) > 1)} in the config:\n{lines}")


def check_config(
    config: DictConfig, command: str, hints: Hints | None = None, typed: set[str] | None = None
) -> list[str]:
    """Everything wrong with a composed config: unread keys, missing values, wrong types, settings out of range.

    Args:
        config: As it was composed.
        command: That reads it.
        hints: Of the command, for what a mistaken key may have meant.
        typed: Keys that the user gave. All others come from files; None = not known.

    Returns:
        A line for each mistake.
    """
    schema = keys_of(command)
    # No value may come from the environment.
    secret = [
        f"{path}: {_ENVIRONMENT} (got {value})"
        for path, value in texts(OmegaConf.to_container(config))
        if re.search(r"\$\{\s*oc\.env\b", value)
    ]
    if secret:
        return secret
    # Resolve all interpolations.
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
    # Keys that nothing reads, and keys that are missing.
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
    # Parts against the signatures of their classes, then everything that has a range.
    problems += check_parts(plain, unread, typed)
    mistyped = optimizer_problems(plain["optimizer"]) if "optimizer" in plain else []
    problems += mistyped
    if not missing and not unread and not mistyped:
        problems += read_keys(config, schema).check()
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
    register_schemas(command)
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
