"""Beam search for sums of codes: the few best partial sums are kept, where a greedy choice keeps one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from imtok.nn.threads import on_threads
from imtok.quantizers.search import nearest

SCORES = 2**21  # tokens x partial sums x codes at a time, on a processor
DEVICE_SCORES = 2**24


@dataclass(frozen=True)
class Beam:
    """Partial sums of some tokens, best first.

    Attributes:
        totals: The sums.
        errors: Squared distance of each from its latent.
        past: Sum of the errors of the sums that it grew from, its own included.
        ids: The codes of each, -1 where none is chosen.
    """

    totals: Float[Tensor, "m w d"]
    errors: Float[Tensor, "m w"]
    past: Float[Tensor, "m w"]
    ids: Int64[Tensor, "m w g"]

    @classmethod
    def empty(cls, latents: Float[Tensor, "m d"], slots: int) -> "Beam":
        """One sum of no code."""
        errors = latents.square().sum(-1, keepdim=True)
        ids = torch.full((len(latents), 1, slots), -1, device=latents.device)
        return cls(torch.zeros_like(latents)[:, None], errors, torch.zeros_like(errors), ids)

    def grown(self, latents: Float[Tensor, "m d"], slot: int, table: Float[Tensor, "v d"], width: int) -> "Beam":
        """Each sum with each of the ``width`` codes of a slot that bring it nearest to its latent."""
        rest = latents[:, None] - self.totals
        scores = torch.addmm(-table.square().sum(-1) / 2, rest.flatten(0, 1), table.T).view(*rest.shape[:2], -1)
        chosen = scores.topk(min(width, len(table)), dim=-1).indices
        totals = (self.totals[:, :, None] + table[chosen]).flatten(1, 2)
        errors = (latents[:, None] - totals).square().sum(-1)
        past = self.past.repeat_interleave(chosen.shape[-1], 1) + errors
        ids = self.ids.repeat_interleave(chosen.shape[-1], 1)
        ids[..., slot] = chosen.flatten(1)
        return Beam(totals, errors, past, ids)

    def best(self, width: int, scores: Float[Tensor, "m w"]) -> "Beam":
        """The ``width`` sums of the least score, best first; the first of equals."""
        order = scores.argsort(dim=-1, stable=True)[:, :width]
        along = order[..., None]
        totals = self.totals.gather(1, along.expand(-1, -1, self.totals.shape[-1]))
        ids = self.ids.gather(1, along.expand(-1, -1, self.ids.shape[-1]))
        return Beam(totals, self.errors.gather(1, order), self.past.gather(1, order), ids)

    def without_doubles(self) -> "Beam":
        """The same sums by error, where sums of the same codes count once; the others are infinitely far."""
        beam = self.best(self.errors.shape[1], self.errors)
        double = (beam.ids[:, 1:] == beam.ids[:, :-1]).all(-1)
        errors = torch.cat([beam.errors[:, :1], beam.errors[:, 1:].masked_fill(double, torch.inf)], 1)
        return Beam(beam.totals, errors, beam.past, beam.ids)


@torch.no_grad()
def ordered_search(
    latents: Float[Tensor, "m d"], tables: Sequence[Float[Tensor, "v d"]], width: int, score: str = "last"
) -> Int64[Tensor, "m g"]:
    """Ids of the codes, one of each table, whose sum is near the latent; found table by table.

    After each table the ``width`` partial sums with the least score go on. A ``width`` of 1 is the greedy choice, and
    one as great as the number of partial sums misses nothing.

    Args:
        latents: What the sums are to be near to.
        tables: In the order in which they are searched.
        width: Number of partial sums that are kept.
        score: ``last``: the squared error of the partial sum. ``sum``: the sum of the errors after each table so far.
    """
    tables = [table.detach() for table in tables]

    def search(block: Tensor) -> Tensor:
        beam = Beam.empty(block, len(tables))
        for slot, table in enumerate(tables):
            grown = beam.grown(block, slot, table, width)
            beam = grown.best(width, grown.errors if score == "last" else grown.past)
        return beam.ids[:, 0]

    return _in_blocks(latents.detach(), search, width * max(*map(len, tables), width * latents.shape[-1]))


@torch.no_grad()
def free_search(
    latents: Float[Tensor, "m d"], tables: Sequence[Float[Tensor, "v d"]], width: int
) -> Int64[Tensor, "m g"]:
    """As :func:`ordered_search` by the last error, but each partial sum may grow by a code of any table it lacks.

    So the order of the tables is part of the search, as in additive quantization (Babenko and Lempitsky, CVPR 2014).
    """
    tables = [table.detach() for table in tables]

    def search(block: Tensor) -> Tensor:
        beam = Beam.empty(block, len(tables))
        for _ in tables:
            grown = [beam.grown(block, slot, table, width) for slot, table in enumerate(tables)]
            useless = [(beam.ids[..., slot] >= 0) | beam.errors.isinf() for slot in range(len(tables))]
            errors = [
                each.errors.unflatten(1, (flags.shape[1], -1)).masked_fill(flags[..., None], torch.inf).flatten(1)
                for each, flags in zip(grown, useless, strict=True)
            ]
            totals = torch.cat([each.totals for each in grown], 1)
            past = torch.cat([each.past for each in grown], 1)
            ids = torch.cat([each.ids for each in grown], 1)
            joined = Beam(totals, torch.cat(errors, 1), past, ids).without_doubles()
            beam = joined.best(width, joined.errors)
        return beam.ids[:, 0].clamp_min(0)  # some stay -1 where latents are not finite

    return _in_blocks(latents.detach(), search, width * max(*map(len, tables), width * len(tables) * latents.shape[-1]))


@torch.no_grad()
def improved(
    latents: Float[Tensor, "m d"], tables: Sequence[Float[Tensor, "v d"]], ids: Int64[Tensor, "m g"], rounds: int
) -> Int64[Tensor, "m g"]:
    """Codes whose sum is at least as near: iterated conditional modes, as in LSQ (Martinez et al., ECCV 2016).

    Each table in turn takes the code that is best beside those of the others.

    Args:
        latents: What the sums are to be near to.
        tables: One for each slot.
        ids: The codes so far.
        rounds: How often each table has its turn.
    """
    chosen = list(ids.unbind(-1))
    codes = [table[own] for table, own in zip(tables, chosen, strict=True)]
    for slot, table in list(enumerate(tables)) * rounds:
        others = [code for place, code in enumerate(codes) if place != slot]
        rest = latents - torch.stack(others).sum(0) if others else latents
        found = nearest(rest, table)
        better = (rest - table[found]).square().sum(-1) < (rest - codes[slot]).square().sum(-1)
        chosen[slot] = torch.where(better, found, chosen[slot])
        codes[slot] = table[chosen[slot]]
    return torch.stack(chosen, -1)


def _in_blocks(latents: Float[Tensor, "m d"], search: Callable[[Tensor], Tensor], scores: int) -> Int64[Tensor, "m g"]:
    """Search tokens block by block, with so many scores for each token at a time."""
    on_processor = latents.device.type == "cpu"
    blocks = latents.split(max(1, (SCORES if on_processor else DEVICE_SCORES) // scores))
    return torch.cat(on_threads(blocks, lambda: search, len(blocks) if on_processor else 1))
