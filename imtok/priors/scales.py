"""Next-scale prediction: all tokens of a scale at once, from the scales before it (VAR, arXiv 2404.02905)."""

import math
from collections.abc import Mapping, Sequence

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from imtok.nn.visibility import causal_groups, hide_keys
from imtok.priors.base import TransformerPrior, mean_of
from imtok.priors.heads import TokenHead
from imtok.priors.layout import TokenLayout
from imtok.priors.prefix import Prefix
from imtok.priors.sampling import Given, Sampling, draws
from imtok.priors.trunk import Trunk
from imtok.types import Condition, Tokens


class ScalePrior(TransformerPrior):
    """A transformer over the scales of a multi-scale quantizer. A token sees the scales before its own, whole.

    What goes in at a scale is the scale before it, its tokens' vectors enlarged to the grid of this one, and for the
    first scale the start vector. VAR enlarges what the codebook makes of all scales so far; this prior knows ids alone,
    and attends to the earlier scales instead.

    Args:
        layout: See :class:`~imtok.priors.base.TransformerPrior`, as for all others that are not named here. Its scales
            are square.
        head: See there.
        trunk: See there.
        prefix: See there.

    Raises:
        ValueError: If an argument is out of range, or the tokens have no scales.
    """

    visible: Bool[Tensor, "m m"]

    def __init__(
        self,
        layout: TokenLayout,
        head: TokenHead,
        trunk: Trunk,
        prefix: Prefix,
    ) -> None:
        super().__init__(layout, head, trunk, prefix)
        self.sides = [math.isqrt(tokens) for tokens in layout.scales]
        if sum(layout.scales) != layout.tokens or any(
            side**2 != tokens for side, tokens in zip(self.sides, layout.scales, strict=True)
        ):
            raise ValueError(
                f"the scales of the tokens must be squares that hold all {layout.tokens} of them, got "
                f"{list(layout.scales)}; take prior=ar for tokens of other quantizers"
            )
        self.levels = nn.Parameter(torch.randn(len(layout.scales), trunk.width) * 0.02)
        groups = causal_groups([self.prefix.length, *layout.scales])
        self.register_buffer("visible", groups, persistent=False)

    @override
    def losses(self, tokens: Tokens, condition: Condition | None, progress: float) -> Mapping[str, Float[Tensor, ""]]:
        there = self.check(tokens)
        return {"tokens": mean_of(self.head.nats(self.hidden(tokens.ids, condition), tokens.ids), there)}

    @override
    def nats(self, tokens: Tokens, condition: Condition | None) -> Float[Tensor, " b"]:
        self.check(tokens)
        return self.head.nats(self.hidden(tokens.ids, condition), tokens.ids).sum((1, 2))

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
        b, device = len(indices), self.positions.device
        uniform = draws(settings.seed, list(indices), self.layout.tokens, self.head.draws).to(device)
        walks = [_Walk(self, condition, b, nothing) for nothing in ((False, True) if settings.guided else (False,))]
        scales, at = list[Tensor](), 0
        for scale, count in enumerate(self.layout.scales):
            hidden = [walk.step(scales[-1] if scales else None, scale) for walk in walks]  # b count d each
            plain = hidden[1] if settings.guided else None
            ids, _ = self.head.sample(hidden[0], plain, uniform[:, at : at + count], settings)
            if given is not None:
                own = slice(at, at + count)
                ids = torch.where(given.stays[:, own, None], given.ids[:, own], ids)
            scales.append(ids)
            at += count
        return Tokens(torch.cat(scales, 1))

    def hidden(self, ids: Tensor, condition: Condition | None) -> Float[Tensor, "b t d"]:
        """What the trunk says of each token, given all scales before its own."""
        prefix, seen = self.prefix(condition, len(ids))
        scales = ids.split(list(self.layout.scales), 1)
        before = [None, *scales[:-1]]
        inputs = [prefix, *(self.inputs(prefix, last, scale) for scale, last in enumerate(before))]
        visible = self.rows(seen, 0, self.visible.shape[0])
        return self.trunk(torch.cat(inputs, 1), visible)[:, prefix.shape[1] :]

    def inputs(self, prefix: Float[Tensor, "b p d"], last: Tensor | None, scale: int) -> Float[Tensor, "b s d"]:
        """What goes in at a scale: the ids of the scale before it, enlarged; None = it is the first."""
        first, side = sum(self.layout.scales[:scale]), self.sides[scale]
        if last is None:
            vectors = prefix[:, -1:].expand(-1, side**2, -1)
        else:
            grid = rearrange(self.head.embed(last), "b (h w) d -> b d h w", h=self.sides[scale - 1])
            wide = F.interpolate(grid, size=(side, side), mode="bilinear", align_corners=False)
            vectors = rearrange(wide, "b d h w -> b (h w) d")
        return vectors + self.positions[first : first + side**2] + self.levels[scale]

    def rows(self, seen: Bool[Tensor, "b p"], start: int, stop: int) -> Bool[Tensor, "n m"] | Bool[Tensor, "b n m"]:
        """Some rows of the mask, in which nobody sees a vector of the prefix that is not there."""
        visible = self.visible[start:stop, :stop]
        if seen.all():
            return visible
        present = torch.cat([seen, seen.new_ones(len(seen), stop - seen.shape[1])], 1)
        return hide_keys(visible, present)


class _Walk:
    """A sequence that grows by a scale at a time, and what its attention layers remember of it."""

    def __init__(self, prior: ScalePrior, condition: Condition | None, images: int, nothing: bool) -> None:
        self.prior = prior
        self.prefix, self.seen = prior.prefix(condition, images, nothing)
        self.memories = prior.trunk.memories()
        prior.trunk(self.prefix, prior.rows(self.seen, 0, self.prefix.shape[1]), self.memories)

    def step(self, last: Tensor | None, scale: int) -> Float[Tensor, "b s d"]:
        """What the trunk says of the tokens of a scale, given those of the scale before it."""
        prior, layout = self.prior, self.prior.layout
        start = self.prefix.shape[1] + sum(layout.scales[:scale])
        inputs = prior.inputs(self.prefix, last, scale)
        visible = prior.rows(self.seen, start, start + layout.scales[scale])
        return prior.trunk(inputs, visible, self.memories)
