"""What an optimiser remembers, by the names of parameters: for any number of devices, in shards or whole.

Torch's own ``get_optimizer_state_dict`` makes an optimiser that has not stepped step, keeps settings of the run so far
against those of the config, and loses settings where parameter groups are cut otherwise.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils._pytree import tree_map

from imtok.distributed import rank
from imtok.training.optimizers import settings_of
from imtok.training.sharding import aside, own_part, whole

_PREFIXES = ("tokenizer.", "objective.critic.", "generator.")


Keep = Callable[[str, Any], Any]


def optimizer_state(task: nn.Module, optimizer: torch.optim.Optimizer, keep: Keep | None = None) -> dict[str, Any]:
    """Whole tensors on the CPU, by parameter and by what they are. Every rank must call it; rank 0 gets them.

    Copies from a GPU are there after it was synchronised.

    Most optimisers keep all that they remember by parameter. What one keeps elsewhere is there as well: settings of
    groups that it has changed itself (``groups``), and what belongs to no parameter (``other``).

    Args:
        task: Has the parameters.
        optimizer: Learns some of them.
        keep: What stands for a value, given its name and the value; None = a copy of the whole tensor.
    """
    found: dict[str, dict[str, Any]] = {}
    named = _named(task, optimizer)
    for name, parameter in named.items():
        state = optimizer.state.get(parameter, {})
        values = {key: keep(f"{name}.{key}", value) if keep else _plain(value) for key, value in state.items()}
        if values and rank() == 0:
            found[name] = values
    names = {id(parameter): name for name, parameter in named.items()}
    groups = [
        {"parameters": [names[id(parameter)] for parameter in group["params"]], "settings": changed}
        for group in optimizer.param_groups
        if (changed := _changed(group))
    ]
    other = {key: _plain(value) for key, value in optimizer.state.items() if not isinstance(key, Tensor)}
    return {"state": found, **({"groups": groups} if groups else {}), **({"other": other} if other else {})}


def restore_optimizer(
    task: nn.Module, optimizer: torch.optim.Optimizer, stored: dict[str, Any], placed: bool = False
) -> None:
    """Put back what :func:`optimizer_state` returned.

    Args:
        task: Has the parameters.
        optimizer: Learns some of them.
        stored: What was returned.
        placed: Whether its tensors lie as their parameters do, and belong to nobody else.

    Raises:
        KeyError: If it holds a parameter that the optimiser does not have.
    """
    named = _named(task, optimizer)
    for name, values in stored["state"].items():
        parameter = named[name]
        optimizer.state[parameter] = (
            dict(values) if placed else {key: _like(key, value, parameter) for key, value in values.items()}
        )
    for group in optimizer.param_groups:
        for parameter in group["params"] if group.get("fused") or group.get("capturable") else ():
            state = optimizer.state.get(parameter, {})
            if isinstance(state.get("step"), Tensor):  # these count on the device
                state["step"] = state["step"].to(parameter.device)
        first = next(name for name, parameter in named.items() if parameter is group["params"][0])
        for told in stored.get("groups", ()):
            if first in told["parameters"]:
                group.update(told["settings"])
    optimizer.state.update(stored.get("other", {}))


def with_room(
    task: nn.Module, optimizer: torch.optim.Optimizer, stored: dict[str, Any], table: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A state with empty tensors, which lie as their parameters do, where it has names of tensors; and these, by name.

    Args:
        task: Has the parameters.
        optimizer: Learns some of them.
        stored: What :func:`optimizer_state` returned, with names in place of tensors.
        table: Shape and type of each tensor, by name.

    Raises:
        KeyError: If it holds a parameter that the optimiser does not have.
    """
    named, rooms = _named(task, optimizer), dict[str, Tensor]()

    def room(parameter: Tensor, value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.clone()
        if not isinstance(value, str) or value not in table:
            return value
        shape, dtype = table[value]
        like = parameter.detach()
        same = shape == like.shape
        empty = torch.empty_like(like, dtype=dtype) if same else torch.empty(shape, dtype=dtype, device=like.device)
        return rooms.setdefault(value, empty)

    state = {
        name: {key: tree_map(partial(room, named[name]), value) for key, value in values.items()}
        for name, values in stored["state"].items()
    }
    return {**stored, "state": state}, rooms


def _named(task: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, nn.Parameter]:
    names = {id(parameter): name for name, parameter in task.named_parameters()}
    learning = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    named = {names[id(parameter)]: parameter for parameter in learning}
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in named):
            return {name.removeprefix(prefix): parameter for name, parameter in named.items()}
    return {name.removeprefix(_PREFIXES[0]): parameter for name, parameter in named.items()}


def _changed(group: dict[str, Any]) -> dict[str, Any]:
    """The settings of a group that its optimiser has changed since it was made."""
    begun = group.get("begun", {})
    return {
        name: _plain(value)
        for name, value in settings_of(group).items()
        if name not in begun or not _same(value, begun[name])
    }


def _same(value: Any, other: Any) -> bool:
    if isinstance(value, Tensor) or isinstance(other, Tensor):
        return isinstance(value, Tensor) and isinstance(other, Tensor) and torch.equal(value, other)
    return bool(value == other)


def _plain(value: Any) -> Any:
    return tree_map(lambda one: aside(whole(one)) if isinstance(one, Tensor) else one, value)


def _like(key: str, value: Any, parameter: Tensor) -> Any:
    """Copies that lie as their parameter does; the count of steps stays on the CPU, where AdamW keeps it."""
    if key == "step":
        return tree_map(lambda one: one.clone() if isinstance(one, Tensor) else one, value)
    return tree_map(lambda one: _placed(one, parameter) if isinstance(one, Tensor) else one, value)


def _placed(value: Tensor, parameter: Tensor) -> Tensor:
    if value.shape == parameter.shape and isinstance(parameter, DTensor):
        return own_part(value, parameter)
    return value.to(parameter.device, copy=True)
