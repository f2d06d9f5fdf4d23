"""Starts the other processes of a run on this machine, if no launcher (torchrun, SLURM) has."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch.distributed as dist
from lightning import Trainer
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from typing_extensions import override

PATIENCE = 10.0  # seconds that the other processes get to end by themselves once one has ended


class Launcher(_SubprocessScriptLauncher):
    """Starts a process per further device. Lightning's would repeat the whole command line, sweep included.

    Args:
        environment: Knows this machine's number and the address at which the processes meet.
        num_processes: Processes on this machine.
        num_nodes: Machines.
        command: What a further process runs: this job alone, into the same folder.
    """

    def __init__(
        self, environment: ClusterEnvironment, num_processes: int, num_nodes: int, command: Sequence[str]
    ) -> None:
        super().__init__(environment, num_processes, num_nodes)
        self.command = list(command)
        self._over = threading.Event()

    @override
    def launch(self, function: Callable[..., Any], *args: Any, trainer: Trainer | None = None, **kwargs: Any) -> Any:
        environment = self.cluster_environment
        environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not environment.creates_processes_externally:
            self._call_children_scripts()
            threading.Thread(target=self._watch, daemon=True).start()
        _set_num_threads_if_needed(num_processes=self.num_processes)
        return function(*args, **kwargs)

    @override
    def _call_children_scripts(self) -> None:
        environment = self.cluster_environment
        for local_rank in range(1, self.num_processes):
            # this process keeps an environment in which the next job of a sweep finds no launcher, either
            variables = {
                "MASTER_ADDR": environment.main_address,
                "MASTER_PORT": str(environment.main_port),
                "NODE_RANK": str(environment.node_rank()),
                "LOCAL_RANK": str(local_rank),
                "WORLD_SIZE": str(self.num_processes * self.num_nodes),
            }
            self.procs.append(subprocess.Popen(self.command, env={**os.environ, **variables}))

    def _watch(self) -> None:
        """End this process if another one has failed, since it would wait for it without end."""
        while not self._over.wait(1):
            for local_rank, process in enumerate(self.procs, 1):
                if process.poll():
                    if self._over.wait(PATIENCE):
                        return
                    sys.stderr.write(
                        f"imtok: process {local_rank} of this machine ended with exit code {process.returncode}\n"
                    )
                    self._end()
                    os._exit(1)

    def part(self) -> None:
        """Leave the process group at the end of a run, so that the next job of a sweep can form its own."""
        if self.procs and dist.is_initialized():
            dist.destroy_process_group()

    def close(self) -> None:
        """Wait for the other processes, and kill those that do not end."""
        self._over.set()
        if self.procs:
            for name in ("MASTER_ADDR", "MASTER_PORT"):
                os.environ.pop(name, None)
            self._end()
            self.procs = []

    def _end(self) -> None:
        end = time.monotonic() + PATIENCE
        for process in self.procs:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0, end - time.monotonic()))
            process.kill()
