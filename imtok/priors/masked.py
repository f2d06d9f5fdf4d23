"""Masked tokens: all that are hidden are predicted at once, and drawn in a few steps (MaskGIT, arXiv 2202.04200)."""

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor, nn
from typing_extensions import override

from imtok.nn.visibility import hide_keys
from imtok.priors.base import TransformerPrior
from imtok.priors.heads import TokenHead
from imtok.priors.layout import TokenLayout
from imtok.priors.prefix import Prefix
from imtok.priors.sampling import Given, Sampling, draws
from imtok.priors.trunk import Trunk
from imtok.types import Condition, Tokens


class MaskedPrior(TransformerPrior):
    """A transformer that sees all tokens but the masked ones, and predicts those (MaskGIT; TiTok's generator).

    In training a share ``cos(pi / 2 * u)`` of the tokens is masked, u uniform in [0, 1), at least one. All slots of a
    token are masked together.

    Its likelihood is not known. ``nats`` is a bound above it: if k of t tokens are masked at random, t / k times what
    they cost is, in the mean over k = 1 .. t, what a random order costs (arXiv 2110.02037). It is measured at
    ``passes`` shares and masks that are the same for all images.

    Args:
        layout: See :class:`~imtok.priors.base.TransformerPrior`, as for all others that are not named here.
        head: See there.
        trunk: See there.
        prefix: See there.
        passes: Over the trunk, in ``nats``.

    Raises:
        ValueError: If an argument is out of range, or images differ in their number of tokens.
    """

    exact = False

    def __init__(
        self,
        layout: TokenLayout,
        head: TokenHead,
        trunk: Trunk,
        prefix: Prefix,
        passes: int = 16,
    ) -> None:
        super().__init__(layout, head, trunk, prefix)
        if layout.variable_length:
            raise ValueError("a masked prior needs as many tokens from every image, and these vary; take prior=ar")
        if passes < 1:
            raise ValueError(f"passes must be at least 1, got {passes}")
        self.passes = passes
        self.mask = nn.Parameter(torch.randn(trunk.width) * 0.02)

    @override
    def losses(self, tokens: Tokens, condition: Condition | None, progress: float) -> Mapping[str, Float[Tensor, ""]]:
        self.check(tokens)
        b, t = tokens.ids.shape[:2]
        share = torch.cos(math.pi / 2 * torch.rand(b, 1, device=tokens.ids.device))
        count = (share * t).ceil().clamp(min=1)
        rank = torch.rand(b, t, device=tokens.ids.device).argsort(1).argsort(1)
        masked = rank < count
        nats = self.head.nats(self.hidden(tokens.ids, masked, condition), tokens.ids)  # b t g
        return {"tokens": (nats.sum(-1) * masked).sum() / masked.sum()}

    @override
    def nats(self, tokens: Tokens, condition: Condition | None) -> Float[Tensor, " b"]:
        self.check(tokens)
        t = self.layout.tokens
        total = torch.zeros(len(tokens.ids), device=tokens.ids.device)
        for number in range(self.passes):
            count = 1 + (2 * number + 1) * t // (2 * self.passes)  # shares in the middle of equal parts of 1 .. t
            order = torch.randperm(t, generator=torch.Generator().manual_seed(number)).to(tokens.ids.device)
            masked = torch.zeros(t, dtype=torch.bool, device=tokens.ids.device)
            masked[order[:count]] = True
            hidden = self.hidden(tokens.ids, masked.expand(tokens.ids.shape[:2]), condition)
            total += t / count * (self.head.nats(hidden, tokens.ids).sum(-1) * masked).sum(-1)
        return total / self.passes

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
        b, t, device = len(indices), self.layout.tokens, self.positions.device
        steps = min(settings.steps, t)  # at least one token stays in each
        uniform = draws(settings.seed, list(indices), steps, t, self.head.draws + 1).to(device)
        ids = torch.zeros(b, t, self.layout.slots, dtype=torch.int64, device=device)
        masked = torch.ones(b, t, dtype=torch.bool, device=device)
        if given is not None:
            ids, masked = torch.where(given.stays[..., None], given.ids, ids), ~given.stays
        for step in range(steps):
            hidden = self.hidden(ids, masked, condition)
            plain = self.hidden(ids, masked, condition, nothing=True) if settings.guided else None
            drawn, likely = self.head.sample(hidden, plain, uniform[:, step, :, :-1], settings)
            ids = torch.where(masked[..., None], drawn, ids)
            heat = settings.choice_temperature * (1 - (step + 1) / steps)
            masked = stay_masked(masked, likely + heat * _gumbel(uniform[:, step, :, -1]), step + 1, steps)
        return Tokens(ids)

    def hidden(
        self,
        ids: Int64[Tensor, "b t g"],
        masked: Bool[Tensor, "b t"],
        condition: Condition | None,
        nothing: bool = False,
    ) -> Float[Tensor, "b t d"]:
        """What the trunk says of each token while some are masked."""
        prefix, seen = self.prefix(condition, len(ids), nothing)
        tokens = torch.where(masked[..., None], self.mask.to(self.positions.dtype), self.head.embed(ids))
        inputs = torch.cat([prefix, tokens + self.positions], 1)  # b (p + t) d
        present = torch.cat([seen, torch.ones_like(masked)], 1)
        visible = None if seen.all() else hide_keys(None, present).expand(-1, inputs.shape[1], -1)
        return self.trunk(inputs, visible)[:, prefix.shape[1] :]


def stay_masked(
    masked: Bool[Tensor, "b t"], confidence: Float64[Tensor, "b t"], step: int, steps: int
) -> Bool[Tensor, "b t"]:
    """Which tokens stay masked after a step: the least sure ones, as many as MaskGIT's cosine says.

    Args:
        masked: Before the step.
        confidence: In what was drawn for them.
        step: From 1.
        steps: In all.

    Example:
        >>> masked = torch.ones(1, 4, dtype=torch.bool)
        >>> stay_masked(masked, torch.tensor([[4.0, 1.0, 3.0, 2.0]], dtype=torch.float64), 1, 2).tolist()
        [[False, True, False, True]]
    """
    if step >= steps:
        return torch.zeros_like(masked)
    left = masked.sum(1, keepdim=True)
    wanted = max(1, math.floor(masked.shape[1] * math.cos(math.pi / 2 * step / steps)))
    count = torch.minimum(left - 1, torch.full_like(left, wanted)).clamp(min=0)  # some become known in each step
    rank = torch.argsort(confidence.masked_fill(~masked, torch.inf), stable=True, dim=1).argsort(1)
    return masked & (rank < count)


def _gumbel(uniform: Float64[Tensor, "b t"]) -> Float64[Tensor, "b t"]:
    return -torch.log(-torch.log(uniform.clamp(1e-20, 1 - 1e-16)))
