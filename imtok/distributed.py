"""The few collectives that imtok needs, in one place. Each is the identity in a single process."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from imtok.errors import InputError

Value = TypeVar("Value")
DISK = timedelta(hours=2)  # how long the other processes wait for one that writes or reads


def world_size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Index of this process among them."""
    return dist.get_rank() if world_size() > 1 else 0


def launched_rank() -> int:
    """Index of this process as its launcher (Lightning, torchrun, SLURM) told it, before the processes have met.

    0 stands for one process only; of the others some may share a number.
    """
    given = (os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    number = int(next((value for value in given if value is not None), 0))
    return number or (0 if "RANK" in os.environ else int(os.environ.get("NODE_RANK", 0)))


@dataclass(frozen=True)
class Launched:
    """What a launcher has started: by name, how many processes, on how many machines."""

    launcher: str
    processes: int
    nodes: int = 1


def launched() -> Launched | None:
    """The processes that a launcher started this one together with; None if nothing but this one was started.

    Those of srun are a step of a SLURM job. A batch script is none, and neither is a shell that srun opens, although
    both see how many tasks the job is for.
    """
    given = {name: int(value) for name, value in os.environ.items() if name in _COUNTS and value.isdigit()}
    if "WORLD_SIZE" in given:
        nodes = given["WORLD_SIZE"] // max(1, given.get("LOCAL_WORLD_SIZE", given["WORLD_SIZE"]))
        return Launched("torchrun", given["WORLD_SIZE"], max(1, nodes))
    if "SLURM_PROCID" in os.environ and "SLURM_PTY_PORT" not in os.environ:
        batch = os.environ.get("ENVIRONMENT") == "BATCH"  # also for what srun starts from such a script
        tasks = given.get("SLURM_STEP_NUM_TASKS", None if batch else given.get("SLURM_NTASKS"))
        if tasks is not None:
            return Launched("srun", tasks, given.get("SLURM_STEP_NUM_NODES", given.get("SLURM_NNODES", 1)))
    count = given.get("OMPI_COMM_WORLD_SIZE", given.get("PMI_SIZE"))
    return None if count is None else Launched("mpirun", count)


_COUNTS = {
    *("WORLD_SIZE", "LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"),
    *("SLURM_STEP_NUM_TASKS", "SLURM_STEP_NUM_NODES", "SLURM_NTASKS", "SLURM_NNODES"),
}


def require_one_process(command: str) -> None:
    """Raise InputError if a launcher started several processes of a command that is one."""
    by = launched()
    if by is not None and by.processes > 1:
        raise InputError(
            f"{by.launcher} started {by.processes} processes, but imtok {command} runs as one: each would do all of it "
            "and write to the same folder; start one"
        )


def launched_gpu() -> int:
    """The GPU of this process among those that it sees: the one of its place on the machine, as its launcher told it.

    Processes share GPUs where there are fewer of them.
    """
    given = (os.environ.get(name) for name in ("LOCAL_RANK", "SLURM_LOCALID"))
    place = int(next((value for value in given if value is not None), 0))
    return place % max(1, torch.cuda.device_count())


def sum_over_ranks(value: Tensor) -> Tensor:
    """The sum of ``value`` over ranks, without gradient."""
    value = value.detach().clone(memory_format=torch.contiguous_format)
    if world_size() > 1:
        dist.all_reduce(value)
    return value


def max_over_ranks(value: Tensor) -> Tensor:
    """The greatest of ``value`` over ranks, number by number, without gradient."""
    value = value.detach().clone(memory_format=torch.contiguous_format)
    if world_size() > 1:
        dist.all_reduce(value, dist.ReduceOp.MAX)
    return value


def mean_over_ranks(value: Tensor) -> Tensor:
    """The mean of ``value`` over ranks, whose gradient is exact once DDP has averaged the gradients of all ranks.

    The value is the global mean and the derivative that of the local value, so a function of it (an entropy, say)
    has the derivative at the global mean: averaging over ranks gives the gradient of one big batch.
    """
    if world_size() == 1:
        return value
    return sum_over_ranks(value) / world_size() + (value - value.detach())


def group_beside(name: str, limit: timedelta) -> Any:
    """A group of all processes for what must not disturb the others' exchange, over gloo, so for tensors on CPUs.

    It is made once; every process must ask for it at the same moment.

    Args:
        name: What it is for.
        limit: How long a process waits for another in it.

    Returns:
        The group; None where no processes have met.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return None
    made, world = _BESIDE.get(name, (None, None)), dist.group.WORLD
    if made[0] is not world:  # a job of a sweep has processes of its own
        _BESIDE[name] = made = (world, dist.new_group(backend="gloo", timeout=limit))
    return made[1]


_BESIDE: dict[str, tuple[Any, Any]] = {}


def from_main(action: Callable[[], Value]) -> Value:
    """Let rank 0 do something alone, such as writing a file; all ranks get its result, or its InputError.

    An error that only rank 0 knew of would leave the others waiting for it. They wait in a group of their own, as long
    as a slow disk may take.
    """
    outcome: list[Any] = [None, None]
    if rank() == 0:
        try:
            outcome[0] = action()
        except InputError as error:
            outcome[1] = str(error)
    if world_size() > 1:
        dist.broadcast_object_list(outcome, src=0, group=group_beside("main", DISK))
    if outcome[1] is not None:
        raise InputError(outcome[1])
    return outcome[0]


def gather_values(value: Value) -> list[Value]:
    """The plain value of each rank, in the order of ranks."""
    values: list[Any] = [value] * world_size()
    if world_size() > 1:
        dist.all_gather_object(values, value)
    return values


def gather_rows(rows: Tensor) -> Tensor:
    """The rows of all ranks, in the order of ranks. Every rank must bring the same number of rows."""
    if world_size() == 1:
        return rows
    parts = [torch.empty_like(rows) for _ in range(world_size())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def device_name(device: torch.device, number: int) -> str:
    """What a run computes on, for a reader: this process's device, and how many there are."""
    if device.type == "cuda":
        name = f"{torch.cuda.get_device_name(device)}"
        return f"{number} x {name}" if number > 1 else f"{device} ({name})"
    threads = f"{torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)}"
    return f"{f'{number} x ' if number > 1 else ''}{device.type} with {threads}"
