"""Finds keys of a composed config that nothing reads: no schema, no class and no other value."""

import dataclasses
from collections.abc import Iterator
from typing import Any, cast, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException


def unread_keys(config: DictConfig, schema: type) -> list[str]:
    """Keys outside the schema that no interpolation of another value names either, shallowest first.

    Below a field that is no dataclass the class that ``_target_`` names decides, which is checked where it is built.

    Args:
        config: As it was composed; stays as it is. Its interpolations have to resolve.
        schema: The dataclass of all that the command reads.

    Example:
        >>> @dataclasses.dataclass
        ... class Schema:
        ...     seed: int = 0
        >>> unread_keys(OmegaConf.create({"seed": "${start.at}", "start": {"at": 3, "to": 5}, "sed": 4}), Schema)
        ['sed', 'start.to']
    """
    left, found = without(config, []), list[str]()
    candidates = list(outside(OmegaConf.to_container(left), schema))
    while candidates:
        read = list[str]()
        for key in candidates:
            rest = without(left, [key])
            if _resolved(rest, [*found, *candidates]) == _resolved(left, [*found, *candidates]):
                left = rest
                found.append(key)
            else:
                read.append(key)
        # A section of which others read something is looked at key by key; what only unread keys read goes as well.
        opened = [f"{key}.{name}" for key in read for name in _names(left, key)]
        if len(read) == len(candidates) and not opened:
            break
        candidates = [name for key in read for name in ([f"{key}.{n}" for n in _names(left, key)] or [key])]
    return sorted(found, key=lambda key: (key.count("."), key))


def without(config: DictConfig, keys: list[str]) -> DictConfig:
    """A copy without some keys, open to any others."""
    left = cast(DictConfig, OmegaConf.create(OmegaConf.to_container(config)))
    for key in keys:
        parent, _, name = key.rpartition(".")
        del cast(DictConfig, OmegaConf.select(left, parent) if parent else left)[name]
    return left


def outside(node: Any, schema: type, path: str = "") -> Iterator[str]:
    """Keys of plain values that a dataclass does not have."""
    fields, hints = {field.name for field in dataclasses.fields(schema)}, get_type_hints(schema)
    for key, value in node.items():
        where = f"{path}.{key}" if path else str(key)
        if key not in fields:
            yield where
        elif dataclasses.is_dataclass(hints[key]) and isinstance(value, dict):
            yield from outside(value, hints[key], where)  # type: ignore[arg-type]


def _names(config: DictConfig, key: str) -> list[str]:
    node = OmegaConf.select(config, key)
    return [str(name) for name in node] if OmegaConf.is_dict(node) else []


def _resolved(config: DictConfig, ignored: list[str]) -> Any:
    """Everything but some keys as plain values; where that cannot be had, why not."""
    try:
        values = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        return type(error), str(error)
    for key in ignored:
        *parents, name = key.split(".")
        node: Any = values
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        if isinstance(node, dict):
            node.pop(name, None)
    return values
