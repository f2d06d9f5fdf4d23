"""What a run computes on: devices, how they work together, and how a global batch is spread over them."""

import logging
from dataclasses import replace
from datetime import timedelta
from typing import Any

from lightning import Trainer
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from typing_extensions import override

from imtok.errors import InputError
from imtok.training.settings import TrainerSettings
from imtok.training.sharding import split_groups

PATIENCE = timedelta(minutes=10)  # a rank that waits longer for another gives up; Lightning's own is 30


class Sharded(ModelParallelStrategy):
    """FSDP2 over all devices; the task says which modules are sharded. Works on CPUs, too, over gloo."""

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False, timeout=PATIENCE)

    @override
    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    @override
    def setup_optimizers(self, trainer: Trainer) -> None:
        super().setup_optimizers(trainer)
        for optimizer in self.optimizers:
            split_groups(optimizer)


def make_trainer(settings: TrainerSettings, has_critic: bool) -> Trainer:
    """Lightning's trainer, which runs one epoch: its loader holds exactly the steps that are left.

    Raises:
        InputError: If there are no such devices, or the launcher's processes are not those that the settings ask for.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    strategy: Any = settings.strategy
    if strategy == "ddp":
        # A loss of the critic does not reach the tokenizer's parameters, nor the other way round. Buffers are the same
        # on all ranks without being sent: what changes them is summed over ranks, and frozen nets do not change.
        strategy = DDPStrategy(find_unused_parameters=has_critic, broadcast_buffers=False, timeout=PATIENCE)
    elif strategy == "fsdp":
        strategy = Sharded()
    try:
        trainer = Trainer(
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
        )
        environment = getattr(trainer.strategy, "cluster_environment", None)
        if environment is not None:  # Lightning looks at this later, when the run folder is there
            environment.validate_settings(trainer.num_devices, trainer.num_nodes)
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        raise InputError(f"trainer: {error}") from None
    return trainer


def _slurm() -> list[Any]:
    """SLURM's processes without Lightning's handler, which would save in a way of its own and requeue the job."""
    used = SLURMEnvironment.detect() and not TorchElasticEnvironment.detect()
    return [SLURMEnvironment(auto_requeue=False)] if used else []


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
