"""From a section of the config to a measure: of imtok, of torchmetrics, or of a package of one's own."""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from hashlib import sha256
from importlib import import_module
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import Any

from torchmetrics import Metric

from imtok.construct import construct, find_class
from imtok.errors import InputError, MissingWeightsError
from imtok.measures.base import ImageMeasure, Measure
from imtok.measures.keys import with_keys
from imtok.measures.library import LibraryMeasure
from imtok.measures.mean import ImageMean
from imtok.measures.quantity import declared

DIRECTION = "higher_is_better"
_FILES = ("weights", "backbone", "heads", "sha256")


def make(name: str, section: Mapping[str, Any]) -> Measure:
    """Build a measure.

    Args:
        name: Its name in the config's section ``measure``.
        section: ``_target_`` and arguments, as plain values; ``higher_is_better`` says which way is better where the
            class leaves it open.

    Raises:
        MissingWeightsError: If it lacks a weight file that nobody named.
        InputError: If the class cannot be had, is no measure or refuses its arguments.
    """
    key = f"measure.{name}"
    kind = find_class(section.get("_target_"), (Measure, Metric), key)
    own = DIRECTION in inspect.signature(kind).parameters
    direction = None if own else section.get(DIRECTION)
    plain = {one: value for one, value in section.items() if one != "_target_" and (own or one != DIRECTION)}
    try:
        made = _build(kind, key, plain)
    except InputError as error:
        refused = isinstance(error.__cause__, (TypeError, ValueError))  # an argument, and no file that lacks
        named = any(value is not None for value in _files(plain))
        told = str(with_keys(error, _file_keys(plain, key)))
        raise (InputError if refused or named else MissingWeightsError)(told) from None
    made.key = name
    if not kind.__module__.startswith("imtok."):
        told = made.told if isinstance(made, LibraryMeasure) else {}
        made.about = {
            "class": f"{kind.__module__}.{kind.__qualname__}",
            "arguments": {**plain, **told},
            "version": _version(kind),
        }
    _set_direction(made, kind, direction, key)
    return made


def _build(kind: type, key: str, plain: Mapping[str, Any]) -> Measure:
    arguments = {one: construct(value, None, key=f"{key}.{one}") for one, value in plain.items()}
    try:
        if issubclass(kind, Measure):
            return kind(**arguments)
        if issubclass(kind, ImageMean):
            return ImageMeasure(kind(**arguments))
        return LibraryMeasure(key.partition(".")[2], kind, arguments)
    except InputError:
        raise
    except Exception as error:  # libraries have errors of their own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{key}: {reason if isinstance(error, ValueError) else f'{kind.__name__}: {reason}'}") from (
            error if isinstance(error, (TypeError, ValueError)) else ValueError(reason)
        )


def _set_direction(made: Measure, kind: type, direction: Any, key: str) -> None:
    """Take from the config which way is better, where the class leaves it open."""
    foreign = not kind.__module__.startswith("imtok.")
    if direction is not None:
        if not isinstance(direction, bool):
            raise InputError(f"{key}.{DIRECTION} must be true or false, got {direction!r}")
        said = [one.higher_is_better for one in declared(made) if one.higher_is_better is not None]
        if not foreign or direction in [not one for one in said]:
            raise InputError(f"{key}.{DIRECTION}: {kind.__name__} says that itself; leave it out")
    if foreign:
        made.quantities = tuple(
            one
            if one.higher_is_better is not None
            else replace(one, higher_is_better=direction, asks=f"{key}.{DIRECTION}")
            for one in declared(made)
        )


def _files(plain: Mapping[str, Any]) -> Iterator[Any]:
    """The values of arguments that name files."""
    for name, value in plain.items():
        if isinstance(value, Mapping):
            yield from _files(value)
        elif name in _FILES:
            yield value


def _file_keys(plain: Mapping[str, Any], key: str) -> dict[str, str]:
    """The config keys of such arguments; those of parts inside stand in their messages already."""
    found = {name: f"{key}.{name}" for name in _FILES if name in plain}
    if "backbone" in found:
        found["weights"] = found["backbone"]
    for name, value in plain.items():
        if isinstance(value, Mapping):
            found |= {f"{key}.{name}.{one}": f"{key}.{name}.{one}" for one in _FILES}
    return found


@cache
def _version(kind: type) -> str:
    """Name and version of the package that a class is of; of files that are no package, the hash of its own."""
    package = kind.__module__.split(".")[0]
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        known = packages_distributions().get(package)  # takes half a second
    if known:
        return f"{known[0]} {version(known[0])}"
    file = getattr(import_module(kind.__module__), "__file__", None)
    return f"sha256 {sha256(Path(file).read_bytes()).hexdigest()[:16]}" if file else "unknown"
