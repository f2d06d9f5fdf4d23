"""Any objective, with a prior that the tokenizer learns with: LARP (arXiv 2410.21264), ETT (2505.10562) and others."""

import inspect
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from typing_extensions import override

from imtok.construct import construct, import_path
from imtok.losses.prior.base import PriorInput, PriorLoss
from imtok.losses.total import with_terms
from imtok.objectives.base import Objective
from imtok.tokenizer import Tokenizer
from imtok.types import Batch, Loss, Losses, NetLosses, StepOutput

NAME = "prior"  # of its term, its net and its key


class WithPrior(Objective):
    """What :func:`with_prior` adds to the class of an objective.

    The loss of the prior is computed twice in a step, with the same random draws. First it is a term of the tokenizer,
    whose gradients pass through the prior and leave nothing in it. Then it is what the prior learns, from codes without
    gradients. Both gradients are those of one and the same number, as if one optimiser had them all, and the prior has
    its own nevertheless (``optimizer.nets.prior``).
    """

    prior: PriorLoss
    _seen: tuple[PriorInput, int] | None

    @override
    def forward(self, tokenizer: Tokenizer, batch: Batch, step: int, generator: torch.Generator) -> Losses:
        with _encoded(tokenizer) as encoded:
            losses = super().forward(tokenizer, batch, step, generator)  # type: ignore[safe-super]
        if NAME in losses.terms:
            raise ValueError(f"no term of an objective with a prior must be called {NAME}, got one; rename it")
        if not encoded:
            raise ValueError(f"{type(self).__name__} must quantize in a step to learn with a prior; ~objective.{NAME}")
        seen = self.prior.look(losses.shown.quantized, tokenizer.quantizer, encoded[-1])
        felt = torch.is_grad_enabled() and self.prior.weight > 0
        if felt and not seen.vectors.requires_grad:
            raise ValueError(
                f"{type(self.prior).__name__} must have something to teach, and what it would reach is frozen; "
                f"~objective.{NAME} leaves it out"
            )
        seed = int(torch.randint(2**62, (), generator=generator))
        with _draws(seed, seen.vectors.device), torch.set_grad_enabled(felt):
            nats = self.prior(seen, step)
        term = {NAME: Loss(nats, self.prior.weight)}
        if self._learns():
            self._seen = (seen.detached(), seed)
        return with_terms(losses, term, {f"{NAME}_bits": nats.detach() / math.log(2)})

    @override
    def nets(self) -> Mapping[str, nn.Module]:
        return {**super().nets(), **({NAME: self.prior} if self._learns() else {})}

    @override
    def net_losses(self, name: str, shown: StepOutput, step: int) -> NetLosses | None:
        if name != NAME:
            return super().net_losses(name, shown, step)
        assert self._seen is not None  # forward comes first
        (seen, seed), self._seen = self._seen, None
        with _draws(seed, seen.vectors.device):
            nats = self.prior(seen, step)
        return NetLosses(nats, {f"{NAME}_learns": Loss(nats.detach(), 1.0)})

    @override
    def net_start(self, name: str) -> int | None:
        return None if name == NAME else super().net_start(name)

    @override
    def net_update(self, name: str, stats: dict[str, Tensor]) -> None:
        if name != NAME:
            super().net_update(name, stats)

    def _learns(self) -> bool:
        return next(self.prior.parameters(), None) is not None


def with_prior(objective: Objective, prior: PriorLoss) -> Objective:
    """The same objective, with a prior: its class gets :class:`WithPrior` in front.

    Its modules keep their names, so that keys in messages and weights in checkpoints are those of the objective.

    Args:
        objective: Any objective whose losses show the codes with their graph.
        prior: What predicts the tokens.

    Raises:
        ValueError: If it has something of that name already.
    """
    kind = type(objective)
    if hasattr(objective, NAME) or NAME in objective.nets():
        raise ValueError(f"{kind.__name__} has a {NAME} of its own; leave objective.{NAME} out")
    objective.__class__ = type(kind.__name__, (WithPrior, kind), {"__module__": kind.__module__})
    joined = cast(WithPrior, objective)
    joined.prior, joined._seen = prior, None
    return joined


def takes_prior(section: Mapping[str, Any]) -> bool:
    """Whether ``prior`` in a section ``objective`` is for :func:`with_prior`, and no argument of the class itself."""
    if NAME not in section:
        return False
    try:
        return NAME not in inspect.signature(import_path(str(section["_target_"]))).parameters
    except Exception:  # what cannot be imported is refused by name
        return True


def build_objective(section: Mapping[str, Any]) -> Objective:
    """Build the section ``objective`` of a config, whose classes may be anybody's.

    Args:
        section: Plain values; ``prior``, where it is there and not null, is a section of a prior.

    Raises:
        InputError: If a class cannot be had.
        TypeError: If one refuses its arguments; so for ValueError.
    """
    own = {key: value for key, value in section.items() if key != NAME or not takes_prior(section)}
    objective = cast(Objective, construct(own, packages=None, key="objective"))
    if not takes_prior(section) or section[NAME] is None:
        return objective
    return with_prior(objective, cast(PriorLoss, construct(section[NAME], packages=None, key=f"objective.{NAME}")))


@contextmanager
def _encoded(tokenizer: Tokenizer) -> Iterator[list[Tensor]]:
    """What the quantizer is given while this is open: the encoder's latents, with their graph."""
    found = list[Tensor]()
    hook = tokenizer.quantizer.register_forward_pre_hook(lambda _module, given: found.append(given[0]))
    try:
        yield found
    finally:
        hook.remove()


@contextmanager
def _draws(seed: int, device: torch.device) -> Iterator[None]:
    """Let torch's random draws begin at a seed, and go on afterwards as if there had been none."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
