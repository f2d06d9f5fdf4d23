"""One optimiser step: micro-batches, guard, clipping, codebook update; and the only step counter there is."""

import logging
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
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
from imtok.training.settings import OptimizerSettings, TrainerSettings, net_key
from imtok.training.sharding import average_gradients, clip_gradients, shard
from imtok.types import Batch, NetLosses, Shown

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
        optimizer: Settings of the optimiser, for the tokenizer and the nets of the objective.
        seed: Of all randomness.
        start_codebook: Whether the quantizer is fitted to the first global batch before step 0.
        schedules: Of the learning rates, by net ("tokenizer", "critic", ...); one that is not there has warm-up, then
            half a cosine.

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
        schedules: Mapping[str, Schedule] | None = None,
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
        self.schedules = schedules or {}
        self.step = 0
        self.stepped = False
        self.skipped = [0, 0]
        self.meters = Meters(tokenizer.quantizer.vocab_sizes)
        self.shown: Shown | None = None
        self._micro = 0
        self._stats: dict[str, Tensor] = {}
        self._learnt: dict[str, dict[str, Tensor]] = {}  # by net of the objective: what its losses counted
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
        settings, heads = self.optimizer_settings, self.objective.heads()
        tokenizer = self.tokenizer if heads is None else nn.ModuleDict({"tokenizer": self.tokenizer, "heads": heads})
        nets = self.objective.nets().items()
        others = [make_optimizer(net, settings.for_net(name), net_key(name)) for name, net in nets]
        return [make_optimizer(tokenizer, settings), *others]

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
            with _fixed(self.objective.nets().values()):
                with _refusals_for_users():
                    losses = self.objective(self.tokenizer, batch, self.step, generator)
                self._backward(losses.total)
            self.shown = _detached(losses.shown)
            of_nets = self._train_nets(self.shown)
        self._keys += batch.key
        merge_stats(self._stats, losses.shown.quantized.stats)
        self.meters.note(losses, *of_nets)
        self._micro += 1
        if last:
            with self._without_autocast():
                self._finish_step()

    def _train_nets(self, shown: Shown) -> list[NetLosses]:
        """Let each net of the objective that learns in this step learn from what it has shown."""
        nets, found = self.objective.nets(), list[NetLosses]()
        for name in nets:
            with _fixed(net for other, net in nets.items() if other != name):
                with _refusals_for_users():
                    losses = self.objective.net_losses(name, shown, self.step)
                if losses is None:
                    continue
                self._backward(losses.total)
            merge_stats(self._learnt.setdefault(name, {}), losses.stats)
            found.append(losses)
        return found

    def _finish_step(self) -> None:
        """Update everything that a step updates, or nothing at all if a number is not finite on some rank."""
        raw = self.optimizers(use_pl_optimizer=True)
        listed: list[Any] = raw if isinstance(raw, list) else [raw]
        learnt = {
            name: optimizer
            for name, optimizer in zip(("tokenizer", *self.objective.nets()), listed, strict=True)
            if name == "tokenizer" or name in self._learnt
        }
        norms = [self._clip(optimizer, name) for name, optimizer in learnt.items()]
        finite = self._loss_is_finite * torch.isfinite(torch.stack(norms)).all()
        if sum_over_ranks(finite).item() == world_size():
            rates = self.rates()
            for name, optimizer in learnt.items():
                set_rate(optimizer, rates[name])
                optimizer.step()
            if not self.tokenizer.is_frozen("quantizer"):
                self.tokenizer.quantizer.update(stats_of_all_ranks(self._stats))
            for name, stats in self._learnt.items():
                self.objective.net_update(name, stats_of_all_ranks(stats))
            shown = dict(zip(learnt, torch.stack(norms).tolist(), strict=True))
            row = {f"lr{_column(name)}": rates[name] for name in learnt}
            self.meters.commit(row | {f"gradient_norm{_column(name)}": norm for name, norm in shown.items()})
            self.skipped[1] = 0
        else:
            self._skip()
        for optimizer in listed:
            optimizer.zero_grad(set_to_none=True)
        self._micro, self._stats, self._learnt, self._keys = 0, {}, {}, []
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
        for optimizer, rate in zip(raw if isinstance(raw, list) else [raw], self.rates().values(), strict=True):
            set_rate(optimizer, rate)

    def rates(self) -> dict[str, float]:
        """Learning rates of this step: the tokenizer's, then those of the nets of the objective."""
        settings, steps, schedules = self.optimizer_settings, self.trainer_settings.max_steps, self.schedules
        found = {"tokenizer": settings.rate(self.step, steps, 0, schedules.get("tokenizer"))}
        for name in self.objective.nets():
            start = self.objective.net_start(name) or 0
            found[name] = settings.net_rate(name, self.step, steps, start, schedules.get(name))
        return found

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

    def _clip(self, optimizer: Any, name: str) -> Tensor:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        if isinstance(self.trainer.strategy, ModelParallelStrategy):
            average_gradients(parameters)
        if all(parameter.grad is None for parameter in parameters):
            return torch.zeros((), device=self.device)
        own = None if name == "tokenizer" else self.optimizer_settings.of_net(name).clip
        return clip_gradients(parameters, own or self.trainer_settings.clip or float("inf"))

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
        with _nothing_dropped(self.tokenizer.condition):
            for batch in self.make_loader(0, 1):
                image, condition = to_float(batch.image.to(self.device)), self.tokenizer.condition_of(batch)
                rows = encoded(self.tokenizer.encoder, image, None, condition).values
                latents.append(rows if rows.dtype == torch.float64 else rows.float())
        everywhere = gather_rows(torch.cat(latents))
        in_order = rearrange(everywhere, "(rank image) n d -> (image rank n) d", rank=world_size())
        self.tokenizer.quantizer.start(in_order)


def _column(name: str) -> str:
    """What the columns of a net are called beside those of the tokenizer."""
    return "" if name == "tokenizer" else f"_{name}"


@contextmanager
def _fixed(modules: Iterable[nn.Module]) -> Iterator[None]:
    """While something else learns, gradients pass through these nets but leave nothing in them."""
    learning = [parameter for module in modules for parameter in module.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


@contextmanager
def _nothing_dropped(condition: nn.Module | None) -> Iterator[None]:
    """Let the condition see all captions: before the first step nothing has seeded what it would draw."""
    training = condition is not None and condition.training
    if condition is not None:
        condition.eval()
    try:
        yield
    finally:
        if condition is not None:
            condition.train(training)


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
