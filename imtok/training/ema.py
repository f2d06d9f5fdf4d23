"""Average of the weights. Lightning's averages buffers and critic too, and with two optimisers may never update."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, Generic, TypeVar

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from typing_extensions import override

from imtok.training.sharding import is_sharded, own, own_part, whole
from imtok.training.steps import Task

Net = TypeVar("Net", bound=nn.Module)


class EMA(Callback, Generic[Net]):
    """Keeps a second net: its parameters are running averages, its buffers copies.

    The weights in training are never exchanged for it, so no exception can leave them exchanged.

    Args:
        net: What is trained; the average starts as a copy of it.
        decay: Weight of the past at each step, reached by the ramp ``(1 + updates) / (10 + updates)``; 0 = a copy.

    Attributes:
        average: The second net, in evaluation mode. Of sharded weights, and of a copy (``decay=0``), it holds what
            :meth:`gather` gathered last.
        updates: Steps that it has taken in.
    """

    def __init__(self, net: Net, decay: float) -> None:
        self.average = deepcopy(net).eval().requires_grad_(False)
        self.decay = decay
        self.updates = 0
        self._averages, self._copies = _values(self.average)

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Task)
        learning, buffers = _values(pl_module.learner)
        if not self.decay:  # a copy, which is made where one is asked for
            self._averages, self._copies = learning, buffers
            return
        if not is_sharded(learning):  # else it stays on the CPU, and what changes is averaged where it is
            self.average.to(pl_module.device)
        averages, copies = _values(self.average)
        self._averages = [own_part(average, like) for average, like in zip(averages, learning, strict=True)]
        self._copies = [copy.to(like.device) for copy, like in zip(copies, buffers, strict=True)]

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, Task)
        if pl_module.stepped and not pl_module.skipped[1]:
            self.update(pl_module.learner)

    @torch.no_grad()
    def update(self, net: nn.Module) -> None:
        """Take in the weights of ``net``."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        learning, buffers = _values(net)
        named = zip(self._averages, learning, strict=True)
        pairs = [(average, latest) for average, latest in named if latest.requires_grad and average is not latest]
        if pairs:
            averages, values = ([own(value) for value in column] for column in zip(*pairs, strict=True))
            torch._foreach_lerp_(averages, values, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]
        for copy, buffer in zip(self._copies, buffers, strict=True):
            if copy is not buffer:
                copy.copy_(buffer)
        self.updates += 1

    @torch.no_grad()
    def gather(self) -> Net:
        """The average with all its weights. Every rank must call it at the same step."""
        for values, latest in zip(_values(self.average), (self._averages, self._copies), strict=True):
            for value, late in zip(values, latest, strict=True):
                if value is not late:
                    value.copy_(whole(late))
        return self.average

    def parts(self) -> dict[str, Tensor]:
        """What the average is made of, as it lies: tensors in shards or whole, by the names of its ``state_dict``."""
        latest = [*self._averages, *self._copies]
        values = [value for column in _values(self.average) for value in column]
        found = {id(value): late.detach() for value, late in zip(values, latest, strict=True)}
        return {name: found[id(value)] for name, value in self.average.state_dict(keep_vars=True).items()}

    @contextmanager
    def lent(self, device: torch.device) -> Iterator[None]:
        """Keep ``average`` on ``device`` for the length of a ``with``: sharded training leaves it on the CPU."""
        home = next(self.average.parameters()).device
        try:
            self.average.to(device)
            yield
        finally:
            self.average.to(home)


def _values(net: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Its parameters and its buffers."""
    return list(net.parameters()), list(net.buffers())
