"""One optimiser step: micro-batches, guard, clipping; and the only step counter there is."""

import logging
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader
from typing_extensions import override

from imtok.distributed import rank, sum_over_ranks, world_size
from imtok.errors import InputError
from imtok.schedules import Schedule
from imtok.training.hardware import Sharded, Whole
from imtok.training.meters import Meters
from imtok.training.optimizers import set_rate
from imtok.training.pace import Clock
from imtok.training.settings import OptimizerSettings, TrainerSettings
from imtok.training.sharding import average_gradients, clip_gradients, shard

log = logging.getLogger(__name__)
_PACKAGE = Path(__file__).parents[1]
MakeLoader = Callable[[int, int], DataLoader[Any]]


class Task(LightningModule, ABC):
    """Trains a net by manual optimisation, a global batch in micro-batches per step.

    All randomness of a step is seeded by (seed, step, rank), so a resumed run needs no random state.

    Args:
        make_loader: Called with the first and the last step, once the processes know their ranks; yields this rank's
            micro-batches of these steps in order.
        trainer: Length and accumulation.
        optimizer: Settings of the optimisers.
        meters: Means of what the steps find.
        seed: Of all randomness.
        schedules: Of the learning rates, by net; one that is not there has warm-up, then half a cosine.

    Attributes:
        name: Of the net that learns, in errors and in :meth:`rates`.
        step: Optimiser steps finished; a step whose gradients were not finite counts too.
        stepped: True after the last micro-batch of a step.
        skipped: Steps whose update was left out because of NaN or infinity, in all and in a row.
        meters: Means since they were last read.
        clock: Where the time of steps goes.
    """

    name: str

    def __init__(
        self,
        make_loader: MakeLoader,
        trainer: TrainerSettings,
        optimizer: OptimizerSettings,
        meters: Meters,
        seed: int = 0,
        schedules: Mapping[str, Schedule] | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.make_loader = make_loader
        self.trainer_settings = trainer
        self.optimizer_settings = optimizer
        self.seed = seed
        self.schedules = schedules or {}
        self.step = 0
        self.stepped = False
        self.skipped = [0, 0]
        self.meters = meters
        self.clock = Clock(torch.device("cpu"))
        self._micro = 0
        self._keys: list[str] = []
        self._loss_is_finite = torch.ones(())

    @property
    @abstractmethod
    def learner(self) -> nn.Module:
        """The net whose weights are averaged, and sharded where a strategy does so."""

    @abstractmethod
    def learn(self, batch: Any, generator: torch.Generator) -> None:
        """Compute the losses of a micro-batch, their gradients by :meth:`backward_of`, and note them in the meters."""

    def other_nets(self) -> Mapping[str, nn.Module]:
        """Nets that learn besides, by name, each with an optimiser of its own."""
        return {}

    def has_learnt(self, name: str) -> bool:
        """Whether one of the other nets has gradients from this step."""
        return True

    def after_update(self) -> None:
        """Change what a step changes besides weights; called where the step was not left out."""

    def forget_step(self) -> None:
        """Forget what was gathered for a step that has ended."""

    @property
    def slower_from(self) -> int | None:
        """The step from which on steps take longer; None = there is none."""
        return None

    @property
    def last_step(self) -> int:
        """The step after which this process stops."""
        settings = self.trainer_settings
        return min(settings.max_steps, settings.stop_at or settings.max_steps)

    @property
    def is_last_micro_batch(self) -> bool:
        """Whether the micro-batch that comes next ends a step."""
        return self._micro + 1 == self.trainer_settings.accumulate

    @override
    def configure_model(self) -> None:
        strategy = self.trainer.strategy
        if isinstance(strategy, Sharded):
            shard(self.learner, strategy.mesh, self.trainer_settings.precision == "bf16")

    @override
    def train_dataloader(self) -> DataLoader[Any]:
        loader = self.make_loader(self.step, self.last_step)
        loader.pin_memory = self.device.type == "cuda"  # a batch then travels while the one before it is learnt
        return loader

    @override
    def on_train_start(self) -> None:
        self.clock = Clock(self.device)

    @override
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.clock.begin()

    @override
    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.clock.back()  # Lightning calls the callbacks before

    @override
    def training_step(self, batch: Any, batch_idx: int) -> None:
        last = self.is_last_micro_batch
        self.stepped = False
        generator = self._seed_step()
        self._loss_is_finite = self._loss_is_finite.to(self.device)
        with nullcontext() if last else self._no_sync():
            self.learn(batch, generator)
        self._keys += batch.key
        self._micro += 1
        if last:
            with self._without_autocast():
                self._finish_step()

    def _finish_step(self) -> None:
        """Update everything that a step updates, or nothing at all if a number is not finite on some rank."""
        if isinstance(self.trainer.strategy, Whole):
            self._require_gradients()
        raw = self.optimizers(use_pl_optimizer=True)
        listed: list[Any] = raw if isinstance(raw, list) else [raw]
        learnt = {
            name: optimizer
            for name, optimizer in zip((self.name, *self.other_nets()), listed, strict=True)
            if name == self.name or self.has_learnt(name)
        }
        norms = [self._clip(optimizer, name) for name, optimizer in learnt.items()]
        finite = self._loss_is_finite * torch.isfinite(torch.stack(norms)).all()
        # One reading, since each waits for the device.
        all_finite, *read = torch.stack([sum_over_ranks(finite).to(norms[0].dtype), *norms]).tolist()
        if all_finite == world_size():
            rates = self.rates()
            for name, optimizer in learnt.items():
                set_rate(optimizer, rates[name])
                optimizer.step()
            self.after_update()
            shown = dict(zip(learnt, read, strict=True))
            row = {f"lr{self._column(name)}": rates[name] for name in learnt}
            self.meters.commit(row | {f"gradient_norm{self._column(name)}": norm for name, norm in shown.items()})
            self.skipped[1] = 0
        else:
            self._skip()
        for optimizer in listed:
            optimizer.zero_grad(set_to_none=True)
        self.forget_step()
        self._micro, self._keys = 0, []
        self._loss_is_finite = torch.ones(())
        self.step += 1
        self.stepped = True
        self.clock.settle()

    def _require_gradients(self) -> None:
        """Refuse weights that the losses do not reach: DDP waits for their gradients, and its error names none.

        Raises:
            InputError: That names some of them.
        """
        besides = {id(parameter) for net in self.other_nets().values() for parameter in net.parameters()}
        without = [
            name
            for name, parameter in self.named_parameters()
            if parameter.requires_grad and parameter.grad is None and id(parameter) not in besides
        ]
        if without:
            raise InputError(
                f"trainer.strategy=ddp needs a gradient for every weight that learns, and the losses do not reach "
                f"{len(without)} of them: {', '.join(without[:4])}{', ...' if len(without) > 4 else ''}; freeze their "
                "part (freeze=[...]), or let the objective use it"
            )

    def set_rates(self) -> None:
        """Set the learning rates of the step that comes next, so that who looks before it sees them."""
        raw = self.optimizers(use_pl_optimizer=False)
        for optimizer, rate in zip(raw if isinstance(raw, list) else [raw], self.rates().values(), strict=True):
            set_rate(optimizer, rate)

    def rates(self) -> dict[str, float]:
        """Learning rates of this step: the net's, then those of the other nets."""
        settings, steps = self.optimizer_settings, self.trainer_settings.max_steps
        return {self.name: settings.rate(self.step, steps, 0, self.schedules.get(self.name))}

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
        if self._averages_besides and (name != self.name or isinstance(self.trainer.strategy, Sharded)):
            average_gradients(parameters)
        if all(parameter.grad is None for parameter in parameters):
            return torch.zeros((), device=self.device)
        own = None if name == self.name else self.optimizer_settings.of_net(name).clip
        return clip_gradients(parameters, own or self.trainer_settings.clip or float("inf"))

    def backward_of(self, loss: Tensor, besides: bool = False) -> None:
        """Add the gradients of a micro-batch's loss to those of its step, and watch whether it is finite.

        Args:
            loss: Of the net that learns.
            besides: It is that of one of the other nets, which a strategy may not know of.
        """
        self.clock.half()
        self._loss_is_finite *= torch.isfinite(loss.detach())
        share = loss / self.trainer_settings.accumulate
        with self._without_autocast():
            if besides and self._averages_besides:
                share.backward()
            else:
                self.manual_backward(share)

    @property
    def _averages_besides(self) -> bool:
        """Whether the task averages over ranks what the other nets learn: the strategy does not."""
        return isinstance(self.trainer.strategy, Sharded | Whole)

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

    def _column(self, name: str) -> str:
        """What the columns of a net are called beside those of the net that learns."""
        return "" if name == self.name else f"_{name}"


@contextmanager
def refusals_for_users() -> Iterator[None]:
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
