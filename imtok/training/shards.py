"""Tensors of a checkpoint in files of several ranks: each writes what it holds, and each reads what it will hold.

The files are those of torch's distributed checkpoints in the form of safetensors: no pickle, and any number of ranks
reads what any other number has written. Names: ``model.NAME``, ``ema.NAME``, ``optimizer.INDEX.NAME.KEY``.
"""

import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor

from imtok.errors import InputError
from imtok.files import stamp

NAME = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")
_LARGEST = 2**30  # bytes of a file, about: one is put together in memory before it is written
_Result = TypeVar("_Result")


class Shards:
    """The tensors in the files of a checkpoint folder, which nothing has read yet.

    Args:
        folder: The checkpoint.
        stamps: Size and hash of each file, as the manifest says them.
        verified: Whether they were compared.
    """

    def __init__(self, folder: Path, stamps: Mapping[str, Any], verified: bool) -> None:
        self.folder = folder
        self.stamps = stamps
        self.verified = verified

    @cached_property
    def table(self) -> dict[str, tuple[torch.Size, torch.dtype]]:
        """Shape and type of each tensor, by its name."""
        found = HuggingFaceStorageReader(str(self.folder)).read_metadata().state_dict_metadata
        tensors = {name: about for name, about in found.items() if isinstance(about, TensorStorageMetadata)}
        return {name: (about.size, about.properties.dtype) for name, about in tensors.items()}

    def verify(self, group: Any = None) -> None:
        """Compare all files with their hashes, unless that was done: each rank of a group takes a share of them.

        Raises:
            InputError: On all ranks, if a file was altered.
        """
        part, parts = (0, 1) if group is None else (dist.get_rank(group), dist.get_world_size(group))
        names = [] if self.verified else sorted(self.stamps)[part::parts]

        def compare() -> None:
            for name in names:
                if stamp(self.folder / name) != self.stamps[name]:
                    raise InputError(f"{self.folder} is damaged ({name} was altered or cut)")

        agreed(compare, group)
        self.verified = True

    def read(self, targets: Mapping[str, Tensor], group: Any = None) -> None:
        """Fill tensors, those in shards with what this rank holds of them.

        Args:
            targets: By the names of the checkpoint.
            group: The ranks that read together, over a backend for CPUs; None = this process reads for itself.

        Raises:
            ValueError: If one is missing, or has another shape or type.
        """
        for name, target in targets.items():
            if name not in self.table:
                raise ValueError(f"{name} is missing")
            shape, dtype = self.table[name]
            if (target.shape, target.dtype) != (shape, dtype):
                raise ValueError(
                    f"{name} is {dtype} of {list(shape)} in it and {target.dtype} of {list(target.shape)} here"
                )
        if not targets:
            return
        reader = HuggingFaceStorageReader(str(self.folder))
        with warnings.catch_warnings(), torch.no_grad():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            load(dict(targets), storage_reader=reader, process_group=group, no_dist=group is None)

    def whole(self, prefix: str = "") -> dict[str, Tensor]:
        """All tensors whose names begin so, whole, by what follows in their names."""
        kinds = {name: kind for name, kind in self.table.items() if name.startswith(prefix)}
        tensors = {name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in kinds.items()}
        self.read(tensors)
        return {name.removeprefix(prefix): value for name, value in tensors.items()}


def write(tensors: Mapping[str, Tensor], folder: Path, group: Any) -> list[Path]:
    """Write what this rank holds of tensors that lie on the CPU; every rank of the group must do it.

    Returns:
        The files of this rank.

    Raises:
        OSError: If a file cannot be written, on any rank.
    """
    writer = HuggingFaceStorageWriter(str(folder), files_of(tensors), save_distributed=True)
    writer.per_thread_copy_ahead = 0  # nothing is on a GPU any more
    try:
        save(dict(tensors), storage_writer=writer, process_group=group)
    except CheckpointException as error:
        causes = [cause for cause, _ in error.failures.values()]
        first = next((cause for cause in causes if isinstance(cause, OSError)), causes[0])
        raise OSError(getattr(first, "errno", None), getattr(first, "strerror", None) or str(first)) from None
    return sorted(folder.glob(f"shard-{dist.get_rank(group) + 1:05d}-*.safetensors"))


def files_of(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Which of a rank's files, counted from 1, each tensor goes to: the same on every rank, and none is very large."""
    found, file, size = dict[str, int](), 1, 0
    for name, tensor in tensors.items():
        share = tensor.device_mesh.size() if isinstance(tensor, DTensor) else 1
        bytes_here = tensor.numel() * tensor.element_size() // share
        if size and size + bytes_here > _LARGEST:
            file, size = file + 1, 0
        found[name], size = file, size + bytes_here
    return found


def agreed(action: Callable[[], _Result], group: Any) -> list[_Result]:
    """What each rank's action returned; if one of them failed, the same InputError on all."""
    outcome: tuple[Any, str | None]
    try:
        outcome = action(), None
    except Exception as error:  # the others must not wait for this rank
        outcome = None, str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
    outcomes: list[Any] = [outcome]
    if group is not None:
        outcomes *= dist.get_world_size(group)
        dist.all_gather_object(outcomes, outcome, group=group)
    problems: Iterable[str] = (problem for _, problem in outcomes if problem is not None)
    problem = next(iter(problems), None)
    if problem is not None:
        raise InputError(problem)
    return [result for result, _ in outcomes]
