"""A checkpoint that all ranks of a run write together: each its shards, and rank 0 the rest, the manifest last."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor

from imtok.errors import InputError
from imtok.files import new_folder, stamp
from imtok.training.checkpoints import (
    SHARDED,
    Checkpoint,
    explained,
    require_finite,
    retire,
    room_for,
    seal,
    write_state,
)
from imtok.training.sharding import own
from imtok.training.shards import agreed, write


def save_sharded(checkpoint: Checkpoint, tensors: Mapping[str, Tensor], folder: Path, keep: int, group: Any) -> Path:
    """Write ``folder/step_N``, read it back, and only then delete the oldest ones beyond ``keep``.

    Args:
        checkpoint: Without tensors, but for small ones in its state; rank 0's is written.
        tensors: By the names of :mod:`imtok.training.shards`, on the CPU, those in shards as this rank holds them.
        folder: Where the checkpoints are, which all ranks see.
        keep: How many stay.
        group: The ranks, over a backend for CPUs; nothing else may use it at the time.

    Raises:
        InputError: On all ranks, if the disk has no room or a number is not finite; earlier checkpoints are untouched.
    """
    target, main = folder / f"step_{checkpoint.step}", dist.get_rank(group) == 0

    def look() -> int:
        require_finite(checkpoint.step, ((name, own(value)) for name, value in tensors.items()))
        return sum(own(value).nbytes for value in tensors.values())

    needed = sum(agreed(look, group))  # what is whole on all ranks counts for each
    with ExitStack() as stack:

        def begin() -> tuple[str, int]:
            free = room_for(target, needed)
            with explained(target, needed, free):
                return str(stack.enter_context(new_folder(target))), free

        aside, free = next(filter(None, agreed(lambda: begin() if main else None, group)))

        def fill() -> dict[str, Any]:
            with explained(target, needed, free):
                return {path.name: stamp(path) for path in write(tensors, Path(aside), group)}

        stamps = agreed(fill, group)

        def show() -> None:
            with explained(target, needed, free):
                write_state(Path(aside) / "trainer.pt", checkpoint.state)
                rest = {"trainer.pt": stamp(Path(aside) / "trainer.pt")}
                seal(
                    Path(aside),
                    SHARDED,
                    checkpoint,
                    {name: about for each in (rest, *stamps) for name, about in each.items()},
                )
                stack.close()

        agreed(lambda: show() if main else None, group)

    def read_back() -> None:
        for name, about in stamps[dist.get_rank(group)].items():
            if stamp(target / name) != about:
                raise InputError(
                    f"{target} was damaged while it was written ({name} was altered or cut); check the disk"
                )

    agreed(read_back, group)
    if main:
        retire(folder, target, keep)
    return target
