"""Processes that run ``train.py``, to be killed and interrupted, without ten seconds of imports for each.

A fork server imports everything once; every process is then a fork of it that has not yet used torch.
"""

import importlib
import multiprocessing
import os
import runpy
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from training.runs import tiny_overrides

from imtok.cli import main

ROOT = Path(__file__).parents[2]
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["imtok.running", "imtok.commands.train", "training.launch", "training.faults"])


class Launched:
    """A process with its output in a file.

    Args:
        name: ``module:function`` of ``training.*``, called in the process.
        arguments: Plain values for it.
        log: Where its output goes.
        environment: What to set besides.
    """

    def __init__(self, name: str, arguments: Sequence[Any], log: Path, environment: dict[str, str] | None = None):
        self.log = log
        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests")])  # for the server's imports
        self.process = _CONTEXT.Process(target=_enter, args=(name, list(arguments), str(log), environment or {}))
        self.process.start()
        os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    @property
    def output(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, seconds: float = 60) -> int:
        """Its exit code, negative if a signal killed it."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            raise AssertionError(f"still running after {seconds} s:\n{self.output}")
        return self.process.exitcode


def launch_train(folder: Path, *overrides: str, fault: str = "", environment: dict[str, str] | None = None) -> Launched:
    """``python train.py`` on the smallest recipe, with ``module:function[:argument]`` called before it."""
    log = folder.parent / f"{folder.name}.{time.monotonic_ns()}.log"
    return Launched("training.launch:_train", [tiny_overrides(folder, *overrides), fault], log, environment)


@dataclass
class Finished:
    """What a command printed, and its exit code."""

    returncode: int
    stdout: str
    stderr: str


def run_command(*arguments: str, folder: Path, columns: int = 200) -> Finished:
    """``imtok ...`` or ``python FILE.py ...`` in ``folder``, on a terminal of so many columns."""
    with tempfile.TemporaryDirectory() as aside:
        printed, said = Path(aside) / "stdout", Path(aside) / "stderr"
        given = [list(arguments), str(folder), str(said)]
        code = Launched("training.launch:_command", given, printed, {"COLUMNS": str(columns)}).wait(600)
        return Finished(code, printed.read_text(), said.read_text())


def launch_ranks(
    world: int, name: str, arguments: Sequence[Any], folder: Path, environment: dict[str, str] | None = None
) -> list[Launched]:
    """The same function in ``world`` processes, as a cluster's launcher would start them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world), "NODE_RANK": "0"}
    return [
        Launched(
            name,
            arguments,
            folder.parent / f"{folder.name}.rank{rank}.{time.monotonic_ns()}.log",
            {**common, "LOCAL_RANK": str(rank), "RANK": str(rank), **(environment or {})},
        )
        for rank in range(world)
    ]


def launch_ddp(folder: Path, world: int, *overrides: str, fault: str = "") -> list[Launched]:
    """``train.py trainer=ddp`` on the smallest recipe in ``world`` processes."""
    given = tiny_overrides(folder, "trainer=ddp", f"trainer.devices={world}", *overrides)
    return launch_ranks(world, "training.launch:_train", [given, fault], folder)


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Poll until ``condition`` holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def _enter(name: str, arguments: list[Any], log: str, environment: dict[str, str]) -> None:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(environment)
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # for workers of data; a fork server's child would use another
    module, _, function = name.partition(":")
    code = 0
    try:
        getattr(importlib.import_module(module), function)(*arguments)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _command(arguments: list[str], folder: str, said: str) -> None:
    os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT), 2)
    os.chdir(folder)
    if arguments[0].endswith(".py"):
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")
    else:
        sys.argv = ["imtok", *arguments]
        sys.exit(main())


def _train(overrides: list[str], fault: str) -> None:
    if fault:
        module, function, *argument = fault.split(":", 2)
        getattr(importlib.import_module(module), function)(*argument)
    sys.argv = ["train.py", *overrides]
    runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
