"""What an optimiser remembers, by the names of parameters: for any number of devices, in shards or whole.

Torch's own ``get_optimizer_state_dict`` makes an optimiser that has not stepped step, keeps settings of the run so far
against those of the config, and loses settings where parameter groups are cut otherwise.
"""

from typing import Any

import torch
from torch import Tensor, nn

from imtok.distributed import rank
from imtok.training.sharding import own_part, whole

_PREFIXES = ("tokenizer.", "objective.critic.")


def optimizer_state(task: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Whole tensors on the CPU, by parameter and by what they are. Every rank must call it; rank 0 gets them."""
    found: dict[str, dict[str, Any]] = {}
    for name, parameter in _named(task, optimizer).items():
        values = {key: _plain(value) for key, value in optimizer.state.get(parameter, {}).items()}
        if values and rank() == 0:
            found[name] = values
    return {"state": found}


def restore_optimizer(task: nn.Module, optimizer: torch.optim.Optimizer, stored: dict[str, Any]) -> None:
    """Put back what :func:`optimizer_state` returned.

    Raises:
        KeyError: If it holds a parameter that the optimiser does not have.
    """
    named = _named(task, optimizer)
    for name, values in stored["state"].items():
        parameter = named[name]
        optimizer.state[parameter] = {key: _like(key, value, parameter) for key, value in values.items()}


def _named(task: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, nn.Parameter]:
    names = {id(parameter): name for name, parameter in task.named_parameters()}
    learning = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    named = {names[id(parameter)]: parameter for parameter in learning}
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in named):
            return {name.removeprefix(prefix): parameter for name, parameter in named.items()}
    return {name.removeprefix(_PREFIXES[0]): parameter for name, parameter in named.items()}


def _plain(value: Any) -> Any:
    return whole(value).detach().cpu().clone() if isinstance(value, Tensor) else value


def _like(key: str, value: Any, parameter: Tensor) -> Any:
    """A tensor as its parameter lies; the count of steps stays on the CPU, where AdamW keeps it."""
    if key == "step" or not isinstance(value, Tensor):
        return value
    return own_part(value.to(parameter.dtype), parameter)
