"""What a run computes on: devices, how they work together, and how a global batch is spread over them."""

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from lightning import Trainer
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.nn.parallel import DistributedDataParallel
from typing_extensions import override

from imtok.distributed import Launched, launched
from imtok.errors import InputError
from imtok.training.flags import handed_on
from imtok.training.launching import Launcher
from imtok.training.settings import TrainerSettings

_MOST_WORKERS = 16  # per device: some 6,000 crops a second, more than any recipe takes
START = timedelta(minutes=30)  # until the first step is done: data are indexed and nets compiled before


class Whole(DDPStrategy):
    """DDP: weights whole on every device, gradients averaged.

    DDP averages what the task's own net learns, while its backward pass goes on. The nets that learn besides, each by a
    backward pass of its own, are left out: the task averages their gradients once per step. Otherwise every backward
    pass would send all gradients. Buffers are the same on all ranks without being sent: what changes them is summed
    over ranks, and frozen nets do not change.

    Args:
        command: What further processes run, where nobody else starts them.
    """

    def __init__(self, command: Sequence[str]) -> None:
        super().__init__(broadcast_buffers=False, gradient_as_bucket_view=True, timeout=START)
        self.command = command

    @override
    def configure_ddp(self) -> None:
        task: Any = self.lightning_module
        besides = {id(parameter) for net in task.other_nets().values() for parameter in net.parameters()}
        names = [name for name, parameter in task.named_parameters() if id(parameter) in besides]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(task, names)
        super().configure_ddp()

    @override
    def _configure_launcher(self) -> None:
        super()._configure_launcher()
        self._launcher = _own(self._launcher, self.command)


class Sharded(ModelParallelStrategy):
    """FSDP2 over all devices; the task says which modules are sharded. Works on CPUs, too, over gloo.

    Args:
        command: What further processes run, where nobody else starts them.
        replicas: Whole sets of shards (HSDP); the devices of a set are neighbours.

    Attributes:
        mesh: The devices: in one dimension, or sets x devices of a set.
    """

    mesh: DeviceMesh

    def __init__(self, command: Sequence[str], replicas: int = 1) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False, timeout=START)
        self.command = command
        self.replicas = replicas

    @override
    def _configure_launcher(self) -> None:
        super()._configure_launcher()
        self._launcher = _own(self._launcher, self.command)

    @override
    def setup_environment(self) -> None:
        devices = self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()
        self.mesh = self.device_mesh["data_parallel"]
        if self.replicas > 1:
            shape = (self.replicas, devices // self.replicas)
            self.mesh = init_device_mesh(self.root_device.type, shape, mesh_dim_names=("replicate", "shard"))


def _own(launcher: Any, command: Sequence[str]) -> Any:
    """A launcher of Lightning's as ours, where there is one and the command is known."""
    if launcher is None or not command:
        return launcher
    return Launcher(launcher.cluster_environment, launcher.num_processes, launcher.num_nodes, command)


def make_trainer(settings: TrainerSettings, command: Sequence[str] = ()) -> Trainer:
    """Lightning's trainer, which runs one epoch: its loader holds exactly the steps that are left.

    Args:
        settings: What to compute on.
        command: What further processes of this run on this machine run; () = Lightning repeats the command line.

    Raises:
        InputError: If there are no such devices, or the launcher's processes are not those that the settings ask for.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    by = launched()
    if settings.strategy == "auto" and str(settings.devices) == "1" and settings.num_nodes == 1:
        _require_processes(by, settings, 1, 1)  # before SLURM's own conditions are looked at
    strategy: Any = settings.strategy
    if strategy == "ddp":
        strategy = Whole(command)
    elif strategy == "fsdp":
        strategy = Sharded(command, settings.fsdp_replicas)
    try:
        trainer = _trainer(settings, strategy)
        if strategy == "auto" and trainer.world_size > 1:
            trainer = _trainer(settings, Whole(command))
        _require_processes(by, settings, trainer.num_devices, trainer.num_nodes)
        if trainer.world_size % settings.fsdp_replicas:
            raise InputError(
                f"trainer.fsdp_replicas={settings.fsdp_replicas} must divide the number of devices, which is "
                f"{trainer.world_size}; give trainer.fsdp_replicas=1, or the number of machines"
            )
        environment = getattr(trainer.strategy, "cluster_environment", None)
        if environment is not None:  # Lightning looks at this later, when the run folder is there
            environment.validate_settings(trainer.num_devices, trainer.num_nodes)
    except InputError:
        raise
    except (MisconfigurationException, TypeError, ValueError, RuntimeError) as error:
        if "invalid strategy name" in str(error):
            raise InputError(f"trainer.strategy={settings.strategy} is not known; give auto, ddp or fsdp") from None
        asked = f"trainer.accelerator={settings.accelerator} trainer.devices={settings.devices}"
        asked += f" trainer.lightning={settings.lightning}" if settings.lightning else ""
        raise InputError(f"{asked}: {str(error).splitlines()[0]}") from None
    return trainer


def _trainer(settings: TrainerSettings, strategy: Any) -> Trainer:
    return Trainer(
        accelerator=settings.accelerator,
        devices=settings.devices,
        num_nodes=settings.num_nodes,
        strategy=strategy,
        precision="bf16-mixed" if settings.precision == "bf16" else "32-true",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        plugins=_slurm(),
        **handed_on(settings.lightning),
    )


def _require_processes(by: Launched | None, settings: TrainerSettings, devices: int, nodes: int) -> None:
    """Raise InputError unless a launcher has started as many processes as train together, or none has started any."""
    if by is not None and by.launcher == "mpirun" and by.processes > 1:
        raise InputError(
            f"mpirun started {by.processes} processes, which do not know of each other; use torchrun or srun"
        )
    if by is None or by.processes == devices * nodes:
        return
    each, left = divmod(by.processes, by.nodes)
    fits = f"trainer.devices={each}" + (f" trainer.num_nodes={by.nodes}" if by.nodes > 1 else "") if not left else ""
    if settings.strategy == "auto" and devices * nodes == 1:
        raise InputError(
            f"{by.launcher} started {by.processes} processes, and each would train a run of its own; give trainer=ddp "
            f"(or fsdp) {fits} for one run, or start one process"
        )
    raise InputError(
        f"trainer.devices={devices} and trainer.num_nodes={nodes} are {devices * nodes} processes, and {by.launcher} "
        f"started {by.processes}; give {fits or 'as many on each machine'}, or start {devices * nodes}"
    )


def _slurm() -> list[Any]:
    """SLURM's processes without Lightning's handler, which would save in a way of its own and requeue the job.

    A script that SLURM runs is one process, however many tasks its allocation is for: only srun starts them.
    """
    if not SLURMEnvironment.detect() or TorchElasticEnvironment.detect():
        return []
    by = launched()
    alone = by is None or by.launcher != "srun"
    return [LightningEnvironment()] if alone else [SLURMEnvironment(auto_requeue=False)]


def with_workers(settings: TrainerSettings, processes: int) -> TrainerSettings:
    """The settings with as many loading processes as this machine's cores allow, where ``workers`` is ``auto``.

    Args:
        settings: As given.
        processes: That train on this machine and share its cores.
    """
    if settings.workers != "auto":
        return settings
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return replace(settings, workers=min(max(cores // processes - 1, 1), _MOST_WORKERS))


def with_micro_batches(settings: TrainerSettings, processes: int) -> TrainerSettings:
    """The settings with as many micro-batches as ``micro_batch`` asks for on so many processes.

    Raises:
        InputError: If processes times micro-batches do not divide the global batch.
    """
    size = settings.batch_size
    if settings.micro_batch is not None:
        together = settings.micro_batch * processes
        if size % together:
            raise InputError(
                f"trainer.batch_size must be a multiple of processes x micro_batch = {processes} x "
                f"{settings.micro_batch}, got {size}; {_fitting(size, processes, settings.micro_batch)}"
            )
        return replace(settings, accumulate=size // together)
    if size % (processes * settings.accumulate):
        raise InputError(
            f"trainer.batch_size must be a multiple of processes x accumulate = {processes} x "
            f"{settings.accumulate}, got {size}"
        )
    return settings


def _fitting(size: int, processes: int, most: int) -> str:
    if size % processes:
        fewer = next(number for number in range(processes, 0, -1) if size % number == 0)
        return f"{size} images cannot be spread over {processes} processes: use {fewer}"
    each = size // processes
    fits = next(number for number in range(min(most, each), 0, -1) if each % number == 0)
    return f"trainer.micro_batch={fits} fits"
