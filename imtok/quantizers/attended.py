"""Gradients through all codes at once: of attention to a codebook, and of the entropies of its assignments."""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from typing_extensions import override

from imtok.quantizers.entropy import BLOCK
from imtok.quantizers.ranks import kept_per_rank, mean_over_ranks


def attention_gradient(
    queries: Float[Tensor, "b n d"],
    keys: Float[Tensor, "v d"],
    values: Float[Tensor, "v d2"],
    keep: Bool[Tensor, "b n"] | None,
    temperature: float | None,
) -> tuple[Float[Tensor, "b n d2"], Float[Tensor, ""], Float[Tensor, " v"]]:
    """``A - sg A`` with ``A = softmax(queries keys^T) values``, and what entropies of the assignments need.

    Both have the same scores, which are computed in blocks of tokens and again in the backward pass, once for both.

    Args:
        queries: One for each token.
        keys: One for each code.
        values: The codes; no gradient flows to them.
        keep: True = counted in the entropies.
        temperature: Divides the scores of the assignments in the entropies; None = no entropies, which are then 0.

    Returns:
        ``A - sg A``: zeros, or NaN where a query is.
        The mean entropy of each token's assignment, in nats.
        The mean assignment over tokens and ranks.
    """
    if temperature is None and not torch.is_grad_enabled():
        nothing = (queries - queries).sum(-1, keepdim=True).expand(*queries.shape[:2], values.shape[1])
        return nothing, queries.new_zeros(()), keys.new_zeros(len(keys))
    tokens = queries.flatten(0, 1)
    weights = tokens.new_ones(len(tokens)) if keep is None else keep.flatten().to(tokens.dtype)
    attended, entropies, assignments = _Attended.apply(tokens, keys, values, weights, temperature)
    attended = attended.view(*queries.shape[:2], -1)
    if temperature is None:
        return attended, entropies, assignments
    count = len(tokens) if keep is None else kept_per_rank(keep, tokens.dtype)
    return attended, entropies / count, mean_over_ranks(assignments / count)


class _Attended(torch.autograd.Function):
    @staticmethod
    @override
    def forward(  # type: ignore[override]
        ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, weights: Tensor, temperature: float | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(queries, keys, values, weights)
        ctx.temperature = temperature
        entropies, assignments = queries.new_zeros(()), keys.new_zeros(len(keys))
        if temperature is not None:
            for block, weight in _blocks(len(keys), queries, weights):
                logs = (block @ keys.T).div_(temperature).log_softmax(-1)
                shares = logs.exp()
                assignments += weight @ shares
                entropies -= shares.mul_(logs).sum(-1) @ weight
        nothing = (queries - queries).sum(-1, keepdim=True)
        return nothing.expand(-1, values.shape[1]).contiguous(), entropies, assignments

    @staticmethod
    @once_differentiable
    @override
    def backward(  # type: ignore[override]
        ctx: Any, to_attended: Tensor, to_entropies: Tensor, to_assignments: Tensor
    ) -> tuple[Tensor, Tensor, None, None, None]:
        queries, keys, values, weights = ctx.saved_tensors
        to_queries, to_keys = torch.empty_like(queries), torch.zeros_like(keys)
        parts = zip(_blocks(len(keys), queries, weights, to_attended), to_queries.split(_rows(len(keys))), strict=True)
        for (block, weight, upstream), result in parts:
            scores = block @ keys.T
            towards = _through_softmax(scores.softmax(-1), upstream @ values.T)
            if ctx.temperature is not None:
                logs = scores.div_(ctx.temperature).log_softmax(-1)
                shares = logs.exp()
                to_shares = (to_assignments - to_entropies * logs).mul_(weight[:, None])
                towards += _through_softmax(shares, to_shares).div_(ctx.temperature)
            torch.mm(towards, keys, out=result)
            to_keys.addmm_(towards.T, block)
        return to_queries, to_keys, None, None, None


def _through_softmax(shares: Float[Tensor, "m v"], upstream: Float[Tensor, "m v"]) -> Float[Tensor, "m v"]:
    """The gradient to the logits of ``shares``; changes ``upstream``."""
    mean = (shares * upstream).sum(-1, keepdim=True)
    return upstream.sub_(mean).mul_(shares)


def _rows(codes: int) -> int:
    return max(1, BLOCK // codes)


def _blocks(codes: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(tensor.split(_rows(codes)) for tensor in tensors), strict=True)
