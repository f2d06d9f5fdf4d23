"""The step of a prior on tokens."""

from collections.abc import Mapping
from typing import Any

import torch
from typing_extensions import override

from imtok.priors.generator import Generator
from imtok.priors.rows import TokenBatch
from imtok.schedules import Schedule
from imtok.training.meters import Meters
from imtok.training.optimizers import make_optimizer
from imtok.training.settings import OptimizerSettings, TrainerSettings
from imtok.training.steps import MakeLoader, Task, refusals_for_users


class PriorTask(Task):
    """Trains a prior, and what is learnt of its condition, on batches of tokens.

    Args:
        generator: What is trained.
        make_loader: See :class:`imtok.training.steps.Task`.
        trainer: Length and accumulation.
        optimizer: Settings of the optimiser.
        seed: Of all randomness.
        schedules: Of the learning rate, by the name "prior".
    """

    name = "prior"

    def __init__(
        self,
        generator: Generator,
        make_loader: MakeLoader,
        trainer: TrainerSettings,
        optimizer: OptimizerSettings,
        seed: int = 0,
        schedules: Mapping[str, Schedule] | None = None,
    ) -> None:
        super().__init__(make_loader, trainer, optimizer, Meters(), seed, schedules)
        self.generator = generator

    @property
    @override
    def learner(self) -> Generator:
        return self.generator

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return make_optimizer(self.generator, self.optimizer_settings)

    @override
    def transfer_batch_to_device(self, batch: TokenBatch, device: torch.device, dataloader_idx: int) -> TokenBatch:
        return batch.to(device)

    @override
    def learn(self, batch: TokenBatch, generator: torch.Generator) -> None:
        with refusals_for_users():
            losses: Mapping[str, Any] = self.generator.losses(batch, self.step / self.trainer_settings.max_steps)
        total = torch.stack(list(losses.values())).sum()
        self.backward_of(total)
        self.meters.terms.update(losses)
        self.meters.note({"loss": total, **losses}, len(batch))
