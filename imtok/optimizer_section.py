"""The section ``optimizer`` of a training config: typed keys of imtok, and beside them arguments of the class."""

from collections.abc import Iterator
from dataclasses import fields
from typing import Any, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from imtok.explain import of_type
from imtok.training.settings import CriticSettings, OptimizerSettings

_OPTIONAL = ("_target_", "betas", "arguments", "critic")


def read_optimizer(section: dict[str, Any]) -> OptimizerSettings:
    """The settings of a section that :func:`optimizer_problems` has nothing against."""
    own, further = _parted(section, OptimizerSettings)
    critic, arguments = _parted(own.pop("critic", None) or {}, CriticSettings)
    found = cast(OptimizerSettings, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(OptimizerSettings), own)))
    found.critic = cast(
        CriticSettings, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(CriticSettings), critic))
    )
    found.arguments, found.critic.arguments = further, arguments
    return found


def typed_section(section: dict[str, Any]) -> dict[str, Any]:
    """The section as plain values with what it leaves out, each of its type, as it is stored."""
    found = read_optimizer(section)
    critic = {name: value for name, value in vars(found.critic).items() if name != "arguments"}
    plain = {name: value for name, value in vars(found).items() if name != "arguments"}
    return {**plain, "critic": {**critic, **found.critic.arguments}, **found.arguments}


def optimizer_problems(section: Any) -> list[str]:
    """What is wrong with the keys of imtok in a section, one line each: types, and keys that were taken out."""
    if not isinstance(section, dict):
        return [f"optimizer: must be a section with _target_, got {section!r}"]
    gone = [one.name for one in fields(OptimizerSettings) if one.name not in (*_OPTIONAL, *section)]
    lines = [
        f"optimizer.{name}: must not be taken out, since the command reads it; give another value" for name in gone
    ]
    lines += _wrong(section, OptimizerSettings, "optimizer")
    if isinstance(section.get("critic"), dict):
        lines += _wrong(section["critic"], CriticSettings, "optimizer.critic")
    return lines


def _parted(section: dict[str, Any], schema: type) -> tuple[dict[str, Any], dict[str, Any]]:
    """The keys of a schema, and all others."""
    known = {one.name for one in fields(schema)} - {"arguments"}
    return (
        {key: value for key, value in section.items() if key in known},
        {key: value for key, value in section.items() if key not in known},
    )


def _wrong(section: dict[str, Any], schema: type, path: str) -> Iterator[str]:
    own, _ = _parted(section, schema)
    for key, value in own.items():
        where = f"{path}.{key}"
        if key == "critic":
            if not isinstance(value, dict):
                yield f"{where}: must be a section, got {value!r}"
            continue
        if value is None and "None" not in str(next(one.type for one in fields(schema) if one.name == key)):
            yield f"{where}: must have a value, got null"
            continue
        try:
            OmegaConf.merge(OmegaConf.structured(schema), {key: value})
        except (OmegaConfBaseException, ValueError, TypeError) as error:
            is_list = any(one.name == key and "list" in str(one.type) for one in fields(schema))
            if is_list and not isinstance(value, list):
                yield f"{where}: a list takes brackets; write {where}=[{value}]"
            else:
                yield f"{where}: {of_type(where, str(error)) or str(error).splitlines()[0]}"
