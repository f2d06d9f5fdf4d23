"""Nets that judge and do not learn: kept as they are, and kept out of everything that looks for weights."""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

log = logging.getLogger(__name__)


class Frozen(nn.Module):
    """Holds a net that never learns, always in evaluation mode.

    Gradients pass through the net to its input. The net is no registered sub-module, so that optimisers, averages,
    checkpoints, exports and the exchange between ranks do not see it; it moves and changes precision with its parent.

    Args:
        net: Any module; it is changed in place.

    Example:
        >>> frozen = Frozen(nn.Linear(2, 1)).train()
        >>> list(frozen.parameters()), frozen.state_dict(), frozen.net.training
        ([], OrderedDict(), False)
        >>> frozen.double()(torch.zeros(1, 2, dtype=torch.float64)).dtype
        torch.float64
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self._hidden = [net.requires_grad_(False).eval()]  # a list, which nn.Module does not search

    @property
    def net(self) -> Any:
        """The net itself."""
        return self._hidden[0]

    @override
    def forward(self, image: Tensor) -> Any:
        return self.net(image)

    @override
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Frozen":
        self.net._apply(fn)
        return super()._apply(fn, recurse)


def drawn(make: Callable[[], nn.Module], what: str) -> nn.Module:
    """A net with the same random weights in every process and run, so that ranks and resumed runs agree; says so."""
    warn_random(what)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


def warn_random(what: str) -> None:
    """One line of the log: a net that should have learnt has not."""
    log.warning("%s has random weights (weights=random): good for trying things out, not for results", what)
