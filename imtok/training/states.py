"""How the state of a run becomes a checkpoint, and back: whole tensors on rank 0, or what each rank holds."""

import logging
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import keystr, tree_map, tree_map_with_path

from imtok.distributed import gather_values, rank
from imtok.errors import InputError
from imtok.training.checkpoints import Checkpoint
from imtok.training.ema import EMA
from imtok.training.hardware import Sharded
from imtok.training.optimizer_state import optimizer_state, restore_optimizer, with_room
from imtok.training.resume import changes
from imtok.training.sharding import aside, whole
from imtok.training.steps import Task

log = logging.getLogger(__name__)

# Settings of an optimiser that change its steps, and not what it remembers.
_SAME_STATE = (
    *("lr", "betas", "eps", "weight_decay", "warmup_steps", "final_lr", "drop_at", "drop_by", "layer_decay"),
    *("foreach", "fused", "clip", "critic", "nets"),
)


def in_shards(strategy: Any) -> bool:
    """Whether a run's ranks write and read their own parts of a checkpoint."""
    return isinstance(strategy, Sharded)


def take(task: Task, ema: EMA[Any], about: dict[str, Any]) -> Checkpoint:
    """A copy of the state of a run between two steps. Every rank must call it; rank 0 gets the tensors."""
    optimizers = [optimizer_state(task, optimizer) for optimizer in _optimizers(task)]
    model, average = _plain(task.state_dict()), _plain(ema.gather().state_dict())
    return _settled(task, Checkpoint(task.step, model, average, _state(task, ema, optimizers), about))


def take_shards(task: Task, ema: EMA[Any], about: dict[str, Any]) -> tuple[Checkpoint, dict[str, Tensor]]:
    """The same, with the tensors that this rank holds, by the names of :mod:`imtok.training.shards`."""
    tensors = {f"model.{name}": aside(value) for name, value in task.state_dict().items()}
    tensors |= {f"ema.{name}": aside(value) for name, value in ema.parts().items()}
    optimizers = list[dict[str, Any]]()
    for index, optimizer in enumerate(_optimizers(task)):

        def keep(name: str, value: Any, index: int = index) -> Any:
            def one(path: Any, leaf: Any) -> Any:
                if not isinstance(leaf, Tensor) or not leaf.ndim:
                    return aside(leaf) if isinstance(leaf, Tensor) else leaf
                key = f"optimizer.{index}.{name}{keystr(path)}"
                tensors[key] = aside(leaf)
                return key

            return tree_map_with_path(one, value)

        optimizers.append(optimizer_state(task, optimizer, keep))
    return _settled(task, Checkpoint(task.step, {}, {}, _state(task, ema, optimizers), about)), tensors


def restore_weights(checkpoint: Checkpoint, task: Task, ema: EMA[Any]) -> None:
    """Put everything but the optimisers back, before the run starts."""
    restore_counts(checkpoint, task, ema)
    if checkpoint.shards is not None:
        checkpoint.shards.verify()
        _read(checkpoint, {"model.": task.state_dict(), "ema.": ema.average.state_dict()}, None)
        return
    try:
        for module, stored in ((task, checkpoint.model), (ema.average, checkpoint.ema)):
            for name, value in module.state_dict().items():
                if name in stored and stored[name].dtype != value.dtype:
                    raise RuntimeError(f"{name} is {stored[name].dtype} in it and {value.dtype} here")
            module.load_state_dict(stored)
    except RuntimeError as error:
        raise _unfitting(checkpoint, error) from None


def restore_counts(checkpoint: Checkpoint, task: Task, ema: EMA[Any]) -> None:
    """Put back what is no tensor: steps, skipped steps, updates of the average."""
    task.step = checkpoint.step
    task.skipped = list(checkpoint.state["skipped"])
    ema.updates = checkpoint.state["ema_updates"]


def restore_part(checkpoint: Checkpoint, task: Task, part: str) -> None:
    """Put back one part of a task, such as ``tokenizer.space.``, from shards, before the task lies in shards itself."""
    assert checkpoint.shards is not None
    wanted = {f"model.{name}": value for name, value in task.state_dict().items() if name.startswith(part)}
    try:
        checkpoint.shards.read(wanted)
    except (ValueError, RuntimeError) as error:
        raise _unfitting(checkpoint, error) from None


def restore_shards(checkpoint: Checkpoint, task: Task, ema: EMA[Any], group: Any) -> None:
    """Put back what each rank holds of weights and averages, once they lie in shards; the ranks of a group do it."""
    average = ema.parts() if ema.decay else {}  # else it is the weights themselves
    _read(checkpoint, {"model.": task.state_dict(), **({"ema.": average} if average else {})}, group)


def restore_optimizers(checkpoint: Checkpoint, task: Task, config: dict[str, Any], group: Any = None) -> None:
    """Put the optimisers back, once they exist; where they are of another kind than before, they begin anew."""
    other = [key for key in changes(checkpoint.about.get("config", config), config) if _remembers_otherwise(key)]
    if other:
        log.warning("the optimiser begins anew, since %s differ", ", ".join(other))
        return
    try:
        pairs = list(zip(_optimizers(task), checkpoint.state["optimizers"], strict=True))
        if checkpoint.shards is None:
            for optimizer, state in pairs:
                restore_optimizer(task, optimizer, state)
            return
        made = [with_room(task, optimizer, state, checkpoint.shards.table) for optimizer, state in pairs]
        checkpoint.shards.read({name: room for _, rooms in made for name, room in rooms.items()}, group)
        for (optimizer, _), (state, _) in zip(pairs, made, strict=True):
            restore_optimizer(task, optimizer, state, placed=True)
    except (KeyError, ValueError) as error:
        raise InputError(
            f"the checkpoint at step {checkpoint.step} does not fit this config (optimisers differ: {error})"
        ) from None


def _state(task: Task, ema: EMA[Any], optimizers: list[dict[str, Any]]) -> dict[str, Any]:
    meters = tree_map(
        lambda value: aside(value) if isinstance(value, Tensor) else value, gather_values(task.meters.state_dict())
    )
    counts = {"skipped": list(task.skipped), "ema_updates": ema.updates}
    return {"optimizers": optimizers, **counts, "meters": meters}


def _settled(task: Task, taken: Checkpoint) -> Checkpoint:
    """A checkpoint whose copies from a GPU have come."""
    if task.device.type == "cuda":
        torch.cuda.synchronize(task.device)
    return taken


def _read(checkpoint: Checkpoint, into: dict[str, dict[str, Any]], group: Any) -> None:
    """Fill the values of dicts, by what the names in the shards begin with; these must be the same names."""
    assert checkpoint.shards is not None
    targets = {f"{kind}{name}": value for kind, values in into.items() for name, value in values.items()}
    try:
        strangers = sorted(name for name in checkpoint.shards.table.keys() - targets if name.startswith(tuple(into)))
        if strangers:
            raise ValueError(f"it has {strangers[0]}, which is not here")
        checkpoint.shards.read(targets, group)
    except (ValueError, RuntimeError) as error:
        raise _unfitting(checkpoint, error) from None


def _unfitting(checkpoint: Checkpoint, error: Exception) -> InputError:
    return InputError(f"the checkpoint at step {checkpoint.step} does not fit this config ({error})")


def _remembers_otherwise(key: str) -> bool:
    """Whether an optimiser whose setting of this name differs keeps another kind of state."""
    names = key.split(".")
    return names[0] == "optimizer" and names[-1] not in _SAME_STATE


def _optimizers(task: Task) -> list[Any]:
    optimizers = task.optimizers(use_pl_optimizer=False)
    return optimizers if isinstance(optimizers, list) else [optimizers]


def _plain(state: dict[str, Any]) -> dict[str, Tensor]:
    """Whole tensors on rank 0's CPU, none of which shares memory with another (a condition of safetensors)."""
    found = {}
    for name, value in state.items():
        gathered = whole(value.detach())
        if rank() == 0:
            found[name] = aside(gathered)
    return found
