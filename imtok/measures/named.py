"""The measures that come with imtok, by the names of their files in ``configs/measure``."""

import difflib
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import import_module
from typing import Any

import yaml

from imtok.errors import InputError
from imtok.folders import config_folder
from imtok.measures.quantity import Quantity, declared

Sections = Mapping[str, Mapping[str, Any]]
DEFAULT = ("psnr", "ssim", "codes")


def names() -> list[str]:
    """All of them."""
    return sorted(path.stem for path in (config_folder() / "measure").glob("*.yaml"))


NO_MEASURE = f"metrics must name at least one of {', '.join(names())}"


def sections(chosen: Iterable[str], **changed: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What ``measure=[...]`` composes.

    Args:
        chosen: Some names.
        **changed: Arguments that differ from the files, by name.

    Raises:
        InputError: If there is no such name.

    Example:
        >>> sections(["length"], length={"target": 30.0})
        {'length': {'_target_': 'imtok.measures.length.LengthMeasure', 'target': 30.0}}
    """
    found = dict[str, dict[str, Any]]()
    for name in chosen:
        path = config_folder() / "measure" / f"{name}.yaml"
        if not path.is_file():
            close = difflib.get_close_matches(str(name), names(), n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(names())}"
            raise InputError(f"metrics: there is no {name}; {hint}")
        found |= yaml.safe_load(path.read_text(encoding="utf-8"))
        found[name] |= changed.get(name, {})
    return found


@cache
def known() -> dict[str, Quantity]:
    """The numbers that they give, by name, as their classes say: for reports that do not say it themselves."""
    targets = {str(section["_target_"]) for name in names() for section in sections([name]).values()}
    kinds = [getattr(import_module(module), kind) for module, _, kind in (one.rpartition(".") for one in targets)]
    return {quantity.name: quantity for kind in kinds for quantity in declared(kind)}
