"""The same bits each time on a GPU: only operations that give them, and the name of one that has none."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from imtok.errors import InputError

_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"  # cuBLAS reads it when it starts


@contextmanager
def deterministic(on: bool) -> Iterator[None]:
    """Let torch use deterministic operations alone for the length of a ``with``; nothing changes if not ``on``.

    Raises:
        InputError: From the block, if an operation has no deterministic form on its device; with its name.
    """
    if not on:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    os.environ.setdefault(_WORKSPACE, ":4096:8")
    try:
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
        yield
    except RuntimeError as error:
        operation, found, _ = str(error).partition(" does not have a deterministic implementation")
        if not found:
            raise
        raise InputError(
            f"trainer.deterministic=true: {operation} gives other bits each time on this device; leave "
            "trainer.deterministic out, or exchange the part that uses it"
        ) from error
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]
