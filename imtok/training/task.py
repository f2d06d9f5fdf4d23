"""One optimiser step: micro-batches, guard, clipping, codebook update; and the only step counter there is."""

import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from lightning import LightningModule
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader
from typing_extensions import override

from imtok.distributed import gather_rows, rank, sum_over_ranks, world_size
from imtok.encoders.base import encoded
from imtok.errors import InputError
from imtok.objectives.base import Objective
from imtok.pixels import to_float
from imtok.quantizers.statistics import merge_stats, stats_of_all_ranks
from imtok.schedules import Schedule
from imtok.tokenizer import Tokenizer
from imtok.training.meters import Meters
from imtok.training.optimizers import make_optimizer, set_rate
from imtok.training.settings import OptimizerSettings, TrainerSettings
from imtok.training.sharding import average_gradients, clip_gradients, shard
from imtok.types import Batch, Shown

log = logging.getLogger(__name__)
_PACKAGE = Path(__file__).parents[1]
MakeLoader = Callable[[int, int], DataLoader[Any]]


class TokenizerTask(LightningModule):
    """Trains a tokenizer on an objective, by manual optimisation.

    All randomness of a step is seeded by (seed, step, rank), so a resumed run needs no random state.

    Args:
        tokenizer: What is trained.
        objective: What is minimised.
        make_loader: Called with the first and the last step, once the processes know their ranks; yields this rank's
            micro-batches of these steps in order.
        trainer: Length and accumulation.
        optimizer: Settings of the optimiser, for tokenizer and critic alike.
        seed: Of all randomness.
        start_codebook: Whether the quantizer is fitted to the first global batch before step 0.
        schedules: Of the tokenizer's learning rate and of the critic's; None = warm-up, then half a cosine.

    Attributes:
        step: Optimiser steps finished; a step whose gradients were not finite counts too.
        stepped: True after the last micro-batch of a step.
        skipped: Steps whose update was left out because of NaN or infinity, in all and in a row.
        meters: Means since they were last read.
        shown: What the last micro-batch produced.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        objective: Objective,
        make_loader: MakeLoader,
        trainer: TrainerSettings,
        optimizer: OptimizerSettings,
        seed: int = 0,
        start_codebook: bool = True,
        schedules: tuple[Schedule | None, Schedule | None] = (None, None),
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.tokenizer = tokenizer
        self.objective = objective
        self.make_loader = make_loader
        self.trainer_settings = trainer
        self.optimizer_settings = optimizer
        self.seed = seed
        self.start_codebook = start_codebook
        self.schedules = schedules
        self.step = 0
        self.stepped = False
        self.skipped = [0, 0]
        self.meters = Meters(tokenizer.quantizer.vocab_sizes)
        self.shown: Shown | None = None
        self._micro = 0
        self._stats: dict[str, Tensor] = {}
        self._critic_stats: dict[str, Tensor] = {}
        self._critic_learnt = False
        self._keys: list[str] = []
        self._loss_is_finite = torch.ones(())

    @property
    def last_step(self) -> int:
        """The step after which this process stops."""
        settings = self.trainer_settings
        return min(settings.max_steps, settings.stop_at or settings.max_steps)

    @override
    def configure_model(self) -> None:
        strategy = self.trainer.strategy
        if isinstance(strategy, ModelParallelStrategy):
            shard(self.tokenizer, strategy.device_mesh["data_parallel"])

    @override
    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        settings = (self.optimizer_settings, self.optimizer_settings.for_critic())
        keys = ("optimizer", "optimizer.critic")
        return [make_optimizer(*given) for given in zip(self.learners(), settings, keys, strict=False)]

    def learners(self) -> list[nn.Module]:
        """What each optimiser trains: the tokenizer (with the objective's heads), and the critic if there is one."""
        heads, critic = self.objective.heads(), self.objective.critic
        tokenizer = self.tokenizer if heads is None else nn.ModuleDict({"tokenizer": self.tokenizer, "heads": heads})
        return [tokenizer] if critic is None else [tokenizer, critic]

    @override
    def train_dataloader(self) -> DataLoader[Any]:
        return self.make_loader(self.step, self.last_step)

    @override
    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        image, label = batch.image.to(device, non_blocking=True), batch.label.to(device, non_blocking=True)
        return replace(batch, image=image, label=label)

    @override
    def on_fit_start(self) -> None:
        if self.step == 0 and self.start_codebook and not self.tokenizer.is_frozen("quantizer"):
            with _refusals_for_users():
                self._start_codebook()

    @override
    def training_step(self, batch: Batch, batch_idx: int) -> None:
        last = self.is_last_micro_batch
        self.stepped = False
        generator = self._seed_step()
        self._loss_is_finite = self._loss_is_finite.to(self.device)
        with nullcontext() if last else self._no_sync():
            with _fixed(self.objective.critic):
                with _refusals_for_users():
                    losses = self.objective(self.tokenizer, batch, self.step, generator)
                self._backward(losses.total)
            self.shown = _detached(losses.shown)
            with _refusals_for_users():
                critic = self.objective.critic_loss(self.shown, self.step) if self.objective.critic else None
            if critic is not None:
                self._backward(critic.total)
                merge_stats(self._critic_stats, critic.stats)
                self._critic_learnt = True
        self._keys += batch.key
        merge_stats(self._stats, losses.shown.quantized.stats)
        self.meters.note(losses, critic)
        self._micro += 1
        if last:
            with self._without_autocast():
                self._finish_step()

    def _finish_step(self) -> None:
        """Update everything that a step updates, or nothing at all if a number is not finite on some rank."""
        raw = self.optimizers(use_pl_optimizer=True)
        listed: list[Any] = raw if isinstance(raw, list) else [raw]
        optimizers = listed if self._critic_learnt else listed[:1]
        norms = [self._clip(optimizer) for optimizer in optimizers]
        finite = self._loss_is_finite * torch.isfinite(torch.stack(norms)).all()
        if sum_over_ranks(finite).item() == world_size():
            rates = self.rates()
            for optimizer, rate in zip(optimizers, rates, strict=False):
                set_rate(optimizer, rate)
                optimizer.step()
            if not self.tokenizer.is_frozen("quantizer"):
                self.tokenizer.quantizer.update(stats_of_all_ranks(self._stats))
            if self._critic_learnt:
                self.objective.update(stats_of_all_ranks(self._critic_stats))
            names = ("gradient_norm", "gradient_norm_critic")
            shown = dict(zip(names, torch.stack(norms).tolist(), strict=False))
            of_critic = {"lr_critic": rates[1]} if self._critic_learnt else {}
            self.meters.commit({"lr": rates[0], **of_critic, **shown})
            self.skipped[1] = 0
        else:
            self._skip()
        for optimizer in listed:
            optimizer.zero_grad(set_to_none=True)
        self._micro, self._stats, self._critic_stats, self._critic_learnt, self._keys = 0, {}, {}, False, []
        self._loss_is_finite = torch.ones(())
        self.step += 1
        self.stepped = True

    @property
    def is_last_micro_batch(self) -> bool:
        """Whether the micro-batch that comes next ends a step."""
        return self._micro + 1 == self.trainer_settings.accumulate

    def set_rates(self) -> None:
        """Set the learning rates of the step that comes next, so that who looks before it sees them."""
        raw = self.optimizers(use_pl_optimizer=False)
        for optimizer, rate in zip(raw if isinstance(raw, list) else [raw], self.rates(), strict=False):
            set_rate(optimizer, rate)

    def rates(self) -> tuple[float, float]:
        """Learning rates of this step: the tokenizer's and the critic's."""
        settings, steps = self.optimizer_settings, self.trainer_settings.max_steps
        adversary = self.objective.adversary
        start = adversary.critic_start if adversary is not None else 0
        own, critics = self.schedules
        return settings.rate(self.step, steps, 0, own), settings.critic_rate(self.step, steps, start, critics)

    def _skip(self) -> None:
        self.skipped = [self.skipped[0] + 1, self.skipped[1] + 1]
        keys = ", ".join(self._keys[:8]) + (", ..." if len(self._keys) > 8 else "")
        message = (
            f"step {self.step}: a loss or gradient was NaN or infinite on some rank; images of rank {rank()}: {keys}"
        )
        if self.skipped[1] > self.trainer_settings.skip_nonfinite:
            raise InputError(
                f"{message}. Stopped after {self.skipped[1]} such steps in a row (trainer.skip_nonfinite); nothing of "
                "them was learnt, the last checkpoint is whole: lower optimizer.lr or look at these images"
            )
        self.meters.discard()
        log.warning("%s. Skipped: neither weights, codebook nor averages have changed", message)

    def _clip(self, optimizer: Any) -> Tensor:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        if isinstance(self.trainer.strategy, ModelParallelStrategy):
            average_gradients(parameters)
        if all(parameter.grad is None for parameter in parameters):
            return torch.zeros((), device=self.device)
        return clip_gradients(parameters, self.trainer_settings.clip or float("inf"))

    def _backward(self, loss: Tensor) -> None:
        self._loss_is_finite *= torch.isfinite(loss.detach())
        with self._without_autocast():
            self.manual_backward(loss / self.trainer_settings.accumulate)

    def _without_autocast(self) -> torch.autocast:
        """Lightning has autocast on for the whole of a step; gradients and updates are no part of what it is for.

        It would turn every product of a backward pass into bfloat16, also where the forward pass was in float32.
        """
        return torch.autocast(self.device.type, enabled=False)

    def _no_sync(self) -> Any:
        strategy = self.trainer.strategy
        return strategy.block_backward_sync() if isinstance(strategy, DDPStrategy) else nullcontext()

    def _seed_step(self) -> torch.Generator:
        mixed = hash((self.seed, self.step, rank(), self._micro)) % 2**63  # of integers only: the same in every process
        torch.manual_seed(mixed)
        return torch.Generator().manual_seed(mixed)

    @torch.no_grad()
    def _start_codebook(self) -> None:
        """Fit the codebook to the latents of the first global batch, the same on every rank and for any split."""
        latents = []
        for batch in self.make_loader(0, 1):
            image, condition = to_float(batch.image.to(self.device)), self.tokenizer.condition_of(batch)
            rows = encoded(self.tokenizer.encoder, image, None, condition).values
            latents.append(rows if rows.dtype == torch.float64 else rows.float())
        everywhere = gather_rows(torch.cat(latents))
        in_order = rearrange(everywhere, "(rank image) n d -> (image rank n) d", rank=world_size())
        self.tokenizer.quantizer.start(in_order)


@contextmanager
def _fixed(module: nn.Module | None) -> Iterator[None]:
    """While the tokenizer learns, gradients pass through the critic but leave nothing in it."""
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad] if module else []
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


@contextmanager
def _refusals_for_users() -> Iterator[None]:
    """What one part of imtok refuses to take from another is the user's to mend: one line, as when parts are built.

    An error from anywhere else is a fault, and keeps its traceback.
    """
    try:
        yield
    except InputError:
        raise
    except ValueError as error:
        raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        if not raised_in.is_relative_to(_PACKAGE):
            raise
        raise InputError(f"parts of the config do not go together: {error}") from error


def _detached(shown: Shown) -> Shown:
    quantized = replace(shown.quantized, latents=shown.quantized.latents.detach(), losses={})
    return Shown(shown.target, None if shown.image is None else shown.image.detach(), quantized)
