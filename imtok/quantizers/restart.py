"""Dead codes drawn anew as tokens of the batch, from statistics that micro-batches and ranks can put together."""

import math

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from imtok.quantizers.statistics import DRAWN, KEYS

_NEAR = 1e-6  # squared distance from its code, relative to its squared length: such a token is a code already
_ROUNDING = 1 - 1e-6
_FORGET = 4  # the past is forgotten this many times as fast as codes are drawn anew
_BITS = 24  # of a key's columns: float32 holds such whole numbers exactly
_ODD = -7046029254386353131  # 2^64 over the golden ratio


@torch.no_grad()
def code_stats(
    latents: Float[Tensor, "b n d"],
    ids: Int64[Tensor, "b n"],
    keep: Bool[Tensor, "b n"] | None,
    vocabulary: int,
) -> dict[str, Tensor]:
    """Per code: ``counts`` of its tokens and ``sums`` of their latents.

    Args:
        latents: The latents that were replaced.
        ids: The code of each.
        keep: True = counted.
        vocabulary: Number of codes.
    """
    points, index = latents.flatten(0, 1), ids.flatten()
    weights = points.new_ones(len(points)) if keep is None else keep.flatten().to(points.dtype)
    return {
        "counts": points.new_zeros(vocabulary).index_add(0, index, weights),
        "sums": points.new_zeros(vocabulary, points.shape[1]).index_add(0, index, points * weights[:, None]),
    }


@torch.no_grad()
def drawn_tokens(
    latents: Float[Tensor, "b n d"],
    codes: Float[Tensor, "b n d"],
    keep: Bool[Tensor, "b n"] | None,
    vocabulary: int,
    seed: Int64[Tensor, ""],
) -> dict[str, Tensor]:
    """Tokens of the batch drawn at random, at most as many as there are codes, no token twice.

    Each token has a place and a key, two random numbers that depend on nothing but its values and the seed; of the
    tokens of a place the one with the greatest key is drawn. So the draw is that of the global batch, however it is
    cut. The place and the first 24 bits of the key are taken of values rounded to bfloat16, so that another order of
    summation changes no draw (or hardly ever); the last 24 bits tell tokens apart that are alike.

    Args:
        latents: The latents that were replaced.
        codes: Their codes; a latent that is one already is not drawn.
        keep: True = may be drawn.
        vocabulary: Number of codes, and of places.
        seed: Another one for each update.

    Returns:
        ``drawn``: per place the key in two columns, -1 where it is empty, and the token.
    """
    points, chosen = latents.flatten(0, 1) + 0.0, codes.flatten(0, 1)  # no -0.0, which has other bits than 0.0
    eligible = (points - chosen).square().sum(-1) > _NEAR * points.square().sum(-1)
    if keep is not None:
        eligible = eligible & keep.flatten()
    rough = _hashed(points.bfloat16().view(torch.int16), seed)
    exact = _hashed(points.view(torch.int64 if points.dtype == torch.float64 else torch.int32), seed)
    place, mask = (rough & (2**31 - 1)) % vocabulary, 2**_BITS - 1
    key = ((rough >> 32 & mask) << _BITS | exact >> 32 & mask).masked_fill(~eligible, -1)
    greatest = key.new_full((vocabulary,), -1).scatter_reduce(0, place, key, "amax")
    wins = eligible & (key == greatest[place])
    number = torch.arange(len(points), device=points.device).masked_fill(~wins, -1)
    winner = key.new_full((vocabulary,), -1).scatter_reduce(0, place, number, "amax")
    empty = (winner < 0)[:, None]
    keys = torch.stack([greatest >> _BITS, greatest & mask], 1).to(points.dtype).masked_fill(empty, -1)
    return {DRAWN: torch.cat([keys, points[winner.clamp_min(0)].masked_fill(empty, 0)], 1)}


@torch.no_grad()
def restart(
    usage: Float[Tensor, " v"], stats: dict[str, Tensor], below: float, decay: float, updates: Int64[Tensor, ""]
) -> tuple[Bool[Tensor, " v"], Float[Tensor, "v d"]]:
    """Move the running shares of the tokens, and find which codes are drawn anew, and as which tokens.

    A code is dead where its share is below ``below`` of an even share. A new code starts at a share that falls below
    that after so many steps without a token as bring one to a code of that share, or ``1 / (1 - decay)`` of them if
    that is less; the first step counts from there, too. A share is that of a code among the others: where many of these
    are new, what it was is forgotten, entirely where a quarter is.

    No two codes become the same token, so that no more are drawn than there are tokens to draw; others wait a step.

    Args:
        usage: Running shares; changed.
        stats: ``counts`` and ``drawn`` of the global batch, with at least one token.
        below: Relative to an even share.
        decay: Weight of the past.
        updates: Steps so far.
    """
    counts, drawn = stats["counts"].to(usage), stats[DRAWN]
    least, tokens = below / len(usage), counts.sum()
    steps = (1 / (least * tokens)).ceil().clamp(1, math.ceil(1 / (1 - decay)))
    anew = least / torch.full_like(steps, decay) ** (steps - 1)
    usage.copy_(torch.where(updates == 0, anew, usage))
    usage.lerp_(counts / tokens, 1 - decay)
    dead = usage < least * _ROUNDING
    place = dead.cumsum(0) - 1
    taken = dead & (place < (drawn[:, 0] >= 0).sum())
    order = drawn[:, 0].argsort(descending=True, stable=True)
    fresh = drawn[order, KEYS:][place.clamp_min(0)]
    forgotten = (_FORGET * taken.to(usage).mean()).clamp_max(1)
    usage.copy_(torch.where(taken, anew, usage.lerp(torch.minimum(usage, anew), forgotten)))
    return taken, fresh


def _hashed(words: Tensor, seed: Int64[Tensor, ""]) -> Int64[Tensor, " m"]:
    """64 random bits for each row of whole numbers: a multilinear hash, mixed once more."""
    factors = _mixed(torch.arange(1, words.shape[-1] + 1, device=words.device) * _ODD) | 1
    return _mixed((words.long() * factors).sum(-1) + (seed + 1) * _ODD)


def _mixed(bits: Int64[Tensor, "*shape"]) -> Int64[Tensor, "*shape"]:
    """The finaliser of splitmix64; products wrap around."""
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        bits = (bits ^ (bits >> shift & (1 << 64 - shift) - 1)) * factor
    return bits ^ (bits >> 31 & (1 << 33) - 1)
