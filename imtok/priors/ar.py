"""Next-token prediction: the tokens of an image one after the other, in raster order or in random orders."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from typing_extensions import override

from imtok.nn.visibility import hide_keys
from imtok.priors.base import TransformerPrior, mean_of, stop_nats
from imtok.priors.heads import TokenHead
from imtok.priors.layout import TokenLayout
from imtok.priors.prefix import Prefix
from imtok.priors.sampling import Given, Sampling, draws
from imtok.priors.trunk import Trunk
from imtok.types import Condition, Tokens


class ARPrior(TransformerPrior):
    """A decoder-only transformer over the tokens of an image (LlamaGen, arXiv 2406.06525).

    Before each token but the first it says whether the image ends, where lengths vary: that is the end token of a
    sequence, as a logit of its own, so that every head can have it.

    In random order (RAR, arXiv 2411.00776) each image of a training batch comes in an order of its own, and each vector
    that goes in is told where the next token stands. The share of images in random order falls from 1 to 0 between two
    moments of the run, so that a finished prior knows raster order. It is sampled and measured in raster order.

    Args:
        layout: See :class:`~imtok.priors.base.TransformerPrior`, as for all others that are not named here.
        head: See there.
        trunk: See there.
        prefix: See there.
        anneal: Share of the run at which random orders begin to become fewer, and at which none is left; None = all
            images are in raster order from the start.

    Raises:
        ValueError: If ``anneal`` is out of range, or is given and lengths vary.
    """

    def __init__(
        self,
        layout: TokenLayout,
        head: TokenHead,
        trunk: Trunk,
        prefix: Prefix,
        anneal: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(layout, head, trunk, prefix)
        if anneal is not None and layout.variable_length:
            raise ValueError(
                "anneal must be null where images leave out their last tokens: a random order has no last ones"
            )
        if anneal is not None and not 0 <= anneal[0] <= anneal[1] <= 1:
            raise ValueError(f"anneal must be two shares of the run in ascending order, got {list(anneal)}")
        self.anneal = anneal
        ahead = torch.randn(layout.tokens, trunk.width) * 0.02
        self.next_position = nn.Parameter(ahead) if anneal is not None else None
        self.end = nn.Linear(trunk.width, 1) if layout.variable_length else None

    @override
    def losses(self, tokens: Tokens, condition: Condition | None, progress: float) -> Mapping[str, Float[Tensor, ""]]:
        there = self.check(tokens)
        order = self._orders(tokens.ids, progress)
        nats, ends = self._nats(tokens.ids, there, condition, order)
        found = {"tokens": mean_of(nats, there)}
        return found if ends is None else found | {"end": ends.sum(1).mean() / there.shape[1]}

    @override
    def nats(self, tokens: Tokens, condition: Condition | None) -> Float[Tensor, " b"]:
        there = self.check(tokens)
        nats, ends = self._nats(tokens.ids, there, condition, None)
        each = (nats.sum(-1) * there).sum(-1)
        return each if ends is None else each + ends.sum(-1)

    @override
    @torch.no_grad()
    def sample(
        self,
        indices: Sequence[int],
        condition: Condition | None,
        settings: Sampling,
        given: Given | None = None,
    ) -> Tokens:
        self.require(settings)
        self.require_given(given)
        b, layout, device = len(indices), self.layout, self.positions.device
        uniform = draws(settings.seed, list(indices), layout.tokens, self.head.draws + 1).to(device)
        walks = [_Walk(self, condition, b, nothing) for nothing in ((False, True) if settings.guided else (False,))]
        ids = torch.zeros(b, 0, layout.slots, dtype=torch.int64, device=device)
        there = torch.ones(b, 0, dtype=torch.bool, device=device)
        for at in range(layout.tokens):
            hidden = [walk.step(ids[:, -1:] if at else None, at) for walk in walks]  # b 1 d each
            drawn, _ = self.head.sample(
                hidden[0], hidden[1] if settings.guided else None, uniform[:, at, None, :-1], settings
            )
            if given is not None:
                drawn = torch.where(given.stays[:, at, None, None], given.ids[:, at, None], drawn)
            goes_on = torch.ones(b, dtype=torch.bool, device=device)
            if self.end is not None and at:
                goes_on = there[:, -1] & (uniform[:, at, -1] >= self.end(hidden[0])[:, 0, 0].double().sigmoid())
            there = torch.cat([there, goes_on[:, None]], 1)
            ids = torch.cat([ids, drawn * goes_on[:, None, None]], 1)
        return Tokens(ids, there if layout.variable_length else None)

    def hidden(
        self, ids: Int64[Tensor, "b t g"], condition: Condition | None, order: Int64[Tensor, "b t"] | None
    ) -> Float[Tensor, "b t d"]:
        """What the trunk says of each token, in the order given; None = raster."""
        prefix, seen = self.prefix(condition, len(ids))
        tokens = self.head.embed(ids) + self.positions  # b t d
        if order is not None:
            tokens = tokens.gather(1, order[..., None].expand_as(tokens))
        inputs = torch.cat([prefix, tokens[:, :-1]], 1)  # b (p + t - 1) d
        if self.next_position is not None:
            ahead = self.next_position.expand(len(ids), -1, -1)
            if order is not None:
                ahead = ahead.gather(1, order[..., None].expand_as(ahead))
            before = inputs.new_zeros(*prefix.shape[:1], prefix.shape[1] - 1, self.trunk.width)
            inputs = inputs + torch.cat([before, ahead], 1)
        length = inputs.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()
        visible = _visible(causal, seen, length)
        said = self.trunk(inputs, visible)
        return said[:, prefix.shape[1] - 1 :]

    def _nats(
        self, ids: Tensor, there: Bool[Tensor, "b t"], condition: Condition | None, order: Tensor | None
    ) -> tuple[Float[Tensor, "b t g"], Float[Tensor, "b t"] | None]:
        hidden = self.hidden(ids, condition, order)
        if order is not None:
            ids = ids.gather(1, order[..., None].expand_as(ids))
        ends = None if self.end is None else stop_nats(self.end(hidden)[..., 0], there)
        return self.head.nats(hidden, ids), ends

    def _orders(self, ids: Tensor, progress: float) -> Int64[Tensor, "b t"] | None:
        """An order for each image of a training batch; None = raster for all."""
        if self.anneal is None:
            return None
        first, last = self.anneal
        share = 1.0 if progress < first else max(0.0, (last - progress) / max(last - first, 1e-12))
        b, t = ids.shape[:2]
        orders = torch.rand(b, t, device=ids.device).argsort(1)
        raster = torch.arange(t, device=ids.device).expand(b, t)
        return torch.where(torch.rand(b, 1, device=ids.device) < share, orders, raster)


class _Walk:
    """A sequence that grows by a token at a time, and what its attention layers remember of it."""

    def __init__(self, prior: ARPrior, condition: Condition | None, images: int, nothing: bool) -> None:
        self.prior = prior
        self.prefix, self.seen = prior.prefix(condition, images, nothing)
        self.memories = prior.trunk.memories()

    def step(self, last: Int64[Tensor, "b 1 g"] | None, at: int) -> Float[Tensor, "b 1 d"]:
        """What the trunk says of token ``at``, given the one before it; None = it is the first."""
        prior = self.prior
        inputs = self.prefix if last is None else prior.head.embed(last) + prior.positions[at - 1]
        if prior.next_position is not None:
            inputs = torch.cat([inputs[:, :-1], inputs[:, -1:] + prior.next_position[at]], 1)
        total, new = self.prefix.shape[1] + at, inputs.shape[1]
        causal = torch.ones(total, total, dtype=torch.bool, device=inputs.device).tril()[-new:]
        visible = _visible(causal, self.seen, total)
        return prior.trunk(inputs, visible, self.memories)[:, -1:]


def _visible(causal: Tensor, seen: Bool[Tensor, "b p"], length: int) -> Any:
    """A mask in which nobody but itself sees a vector of the prefix that is not there."""
    if seen.all():
        return causal
    present = torch.cat([seen, seen.new_ones(len(seen), length - seen.shape[1])], 1)
    own = torch.eye(length, dtype=torch.bool, device=causal.device)[-causal.shape[0] :]
    return hide_keys(causal, present) | own
