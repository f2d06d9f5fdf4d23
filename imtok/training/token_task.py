"""The step of a net on tokens."""

from collections.abc import Mapping
from typing import Any

import torch
from typing_extensions import override

from imtok.priors.learner import TokenLearner
from imtok.priors.rows import TokenBatch
from imtok.schedules import Schedule
from imtok.training.meters import Meters
from imtok.training.optimizers import make_optimizer
from imtok.training.settings import OptimizerSettings, TrainerSettings
from imtok.training.steps import MakeLoader, Task, refusals_for_users


class TokenTask(Task):
    """Trains a prior with what is learnt of its condition, or a classifier, on batches of tokens.

    Args:
        net: What is trained.
        make_loader: See :class:`imtok.training.steps.Task`.
        trainer: Length and accumulation.
        optimizer: Settings of the optimiser.
        seed: Of all randomness.
        schedules: Of the learning rate, by the name of the net.
    """

    def __init__(
        self,
        net: TokenLearner,
        make_loader: MakeLoader,
        trainer: TrainerSettings,
        optimizer: OptimizerSettings,
        seed: int = 0,
        schedules: Mapping[str, Schedule] | None = None,
    ) -> None:
        super().__init__(make_loader, trainer, optimizer, Meters(), seed, schedules)
        self.name, self._member = net.name, net.member
        self.add_module(net.member, net)

    @property
    @override
    def learner(self) -> TokenLearner:
        net = self.get_submodule(self._member)
        assert isinstance(net, TokenLearner)
        return net

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return make_optimizer(self.learner, self.optimizer_settings)

    @override
    def transfer_batch_to_device(self, batch: TokenBatch, device: torch.device, dataloader_idx: int) -> TokenBatch:
        return batch.to(device)

    @override
    def learn(self, batch: TokenBatch, generator: torch.Generator) -> None:
        with refusals_for_users():
            losses: Mapping[str, Any] = self.learner.losses(batch, self.step / self.trainer_settings.max_steps)
        total = torch.stack(list(losses.values())).sum()
        self.backward_of(total)
        self.meters.terms.update(losses)
        self.meters.note({"loss": total, **losses}, len(batch))
