"""The section ``optimizer`` of a training config: typed keys of imtok, and beside them arguments of the class."""

from collections.abc import Iterator
from dataclasses import fields
from typing import Any, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from imtok.explain import of_type
from imtok.training.settings import NetSettings, OptimizerSettings, net_key

_OPTIONAL = ("_target_", "betas", "arguments", "critic", "nets")


def read_optimizer(section: dict[str, Any]) -> OptimizerSettings:
    """The settings of a section that :func:`optimizer_problems` has nothing against."""
    own, further = _parted(section, OptimizerSettings)
    critic, nets = own.pop("critic", None) or {}, own.pop("nets", None) or {}
    found = cast(OptimizerSettings, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(OptimizerSettings), own)))
    found.arguments, found.critic = further, _read_net(critic)
    found.nets = {name: _read_net(net or {}) for name, net in nets.items()}
    return found


def _read_net(section: dict[str, Any]) -> NetSettings:
    own, arguments = _parted(section, NetSettings)
    found = cast(NetSettings, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(NetSettings), own)))
    found.arguments = arguments
    return found


def typed_section(section: dict[str, Any]) -> dict[str, Any]:
    """The section as plain values with what it leaves out, each of its type, as it is stored."""
    found = read_optimizer(section)
    plain = {**_plain(found), "critic": _plain(found.critic), "nets": {k: _plain(net) for k, net in found.nets.items()}}
    if not found.nets:
        del plain["nets"]  # none leaves no trace: runs of before there were any are the same
    return plain


def _plain(settings: OptimizerSettings | NetSettings) -> dict[str, Any]:
    return {name: value for name, value in vars(settings).items() if name != "arguments"} | settings.arguments


def optimizer_problems(section: Any) -> list[str]:
    """What is wrong with the keys of imtok in a section, one line each: types, and keys that were taken out."""
    if not isinstance(section, dict):
        return [f"optimizer: must be a section with _target_, got {section!r}"]
    gone = [one.name for one in fields(OptimizerSettings) if one.name not in (*_OPTIONAL, *section)]
    lines = [
        f"optimizer.{name}: must not be taken out, since the command reads it; give another value" for name in gone
    ]
    lines += _wrong(section, OptimizerSettings, "optimizer")
    nets = section.get("nets") or {}
    if not isinstance(nets, dict):
        return [*lines, f"optimizer.nets: takes sections by the names of nets, got {nets!r}"]
    for name, net in {"critic": section.get("critic"), **nets}.items():
        if name == "critic" and name in nets:
            lines.append("optimizer.nets.critic: what differs for the critic stands in optimizer.critic")
        elif isinstance(net, dict):
            lines += _wrong(net, NetSettings, net_key(name))
        elif name in nets and net is not None:
            lines.append(f"{net_key(name)}: must be a section, got {net!r}")
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
    types = {one.name: str(one.type) for one in fields(schema)}
    base = OmegaConf.structured(schema)
    for key, value in own.items():
        where = f"{path}.{key}"
        if key == "nets":
            continue
        if key == "critic":
            if not isinstance(value, dict):
                yield f"{where}: must be a section, got {value!r}"
            continue
        if value is None and "None" not in types[key]:
            yield f"{where}: must have a value, got null"
            continue
        try:
            base[key] = value
        except (OmegaConfBaseException, ValueError, TypeError) as error:
            if "list" in types[key] and not isinstance(value, list):
                yield f"{where}: a list takes brackets; write {where}=[{value}]"
            else:
                yield f"{where}: {of_type(where, str(error)) or str(error).splitlines()[0]}"
