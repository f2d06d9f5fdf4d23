"""Faults that a test plants in a process before it runs ``train.py``."""

import os
import signal
import time
from collections.abc import Callable
from itertools import count
from typing import Any

import torch

import imtok.files
from imtok.data.images import ImageSet
from imtok.distributed import launched_rank
from imtok.objectives.reconstruction import ReconstructionObjective
from imtok.training import checkpoints, run, sharded_saving
from imtok.training.ema import EMA
from imtok.training.logging import Log
from imtok.training.saving import Saving
from imtok.training.task import TokenizerTask
from imtok.types import Batch

# Where a fault may strike: what is under way while the named function runs.
POINTS: dict[str, tuple[Any, str]] = {
    "data": (ImageSet, "__getitem__"),
    "forward": (ReconstructionObjective, "forward"),
    "step": (TokenizerTask, "_finish_step"),
    "clip": (TokenizerTask, "_clip"),
    "ema": (EMA, "update"),
    "log": (Log, "on_train_batch_end"),
    "save": (checkpoints, "save_file"),
    "manifest": (checkpoints, "write_json"),
    "flush": (imtok.files, "flush"),
    "retire": (checkpoints, "retire"),
    "shards": (sharded_saving, "write"),
    "seal": (sharded_saving, "seal"),
    "retire shards": (sharded_saving, "retire"),
    "saved": (Saving, "save"),
    "checkpoint": (checkpoints, "save"),
    "finish": (run, "finish"),
}
_SIGNALS = {"kill": 9, "term": signal.SIGTERM, "int": signal.SIGINT, "usr1": signal.SIGUSR1}


def plant(specification: str) -> None:
    """``POINT,CALL,ACTION[,RANK]``: at the so-manieth call (from 1) of a point, send a signal to oneself or raise."""
    point, call, action, *rank = specification.split(",")
    if rank and launched_rank() != int(rank[0]):
        return
    owner, name = POINTS[point]
    original, calls = getattr(owner, name), count(1)

    def struck(*args: Any, **kwargs: Any) -> Any:
        number = next(calls)  # several threads may call it
        if number == int(call):
            strike(action)
        result = original(*args, **kwargs)
        if -number == int(call):  # a negative number: after the call
            strike(action)
        return result

    setattr(owner, name, struck)


def strike(action: str) -> None:
    if action == "raise":
        raise RuntimeError("planted failure")
    if action == "full":
        raise OSError(28, "No space left on device")
    if action == "twice":
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    os.kill(os.getpid(), _SIGNALS[action])


def slow(seconds: str) -> None:
    """Every step takes so long."""
    _around(TokenizerTask, "_finish_step", lambda: time.sleep(float(seconds)))


def noise(path: str) -> None:
    """Each micro-batch writes a random number that the model would draw."""
    original = TokenizerTask._seed_step

    def noted(task: TokenizerTask) -> torch.Generator:
        generator = original(task)
        with open(path, "a") as file:  # noqa: PTH123
            file.write(f"{launched_rank()} {torch.rand(()).item()!r}\n")
        return generator

    TokenizerTask._seed_step = noted  # type: ignore[method-assign]


def readings(path: str) -> None:
    """Each step writes reading and key of the images that it trains on to ``PATH.RANK``."""
    original = TokenizerTask.training_step

    def noted(task: TokenizerTask, batch: Batch, batch_idx: int) -> None:
        with open(f"{path}.{launched_rank()}", "a") as file:  # noqa: PTH123
            file.writelines(f"{reading} {key}\n" for reading, key in zip(batch.index.tolist(), batch.key, strict=True))
        original(task, batch, batch_idx)

    TokenizerTask.training_step = noted  # type: ignore[method-assign]


def nonfinite(specification: str) -> None:
    """``KIND,STEP[,RANK]``: NaN or infinity at one step, on one rank or all."""
    kind, step, *rank = specification.split(",")
    if rank and launched_rank() != int(rank[0]):
        return
    original = TokenizerTask._finish_step

    def damaged(task: TokenizerTask) -> None:
        if task.step == int(step):
            parameter = next(task.tokenizer.parameters())
            assert parameter.grad is not None
            parameter.grad.view(-1)[0] = float(kind)
        original(task)

    TokenizerTask._finish_step = damaged  # type: ignore[method-assign]


def _around(owner: Any, name: str, before: Callable[[], None]) -> None:
    original = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        before()
        return original(*args, **kwargs)

    setattr(owner, name, wrapped)


def own_group(seconds: str) -> None:
    """Lead a group of processes, as under a terminal or SLURM, and be slow."""
    os.setpgid(0, 0)
    slow(seconds)
