"""Gradients through all codes at once: of attention to a codebook, and of the entropies of its assignments."""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from typing_extensions import override

from imtok.quantizers.entropy import block_rows, entropy
from imtok.quantizers.ranks import kept_per_rank, mean_over_ranks

NOTHING = -87.0  # the exponential of less is no normal number in float32, for which processors take far longer


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


def distance_entropies(
    latents: Float[Tensor, "b n d"], table: Float[Tensor, "v d"], keep: Bool[Tensor, "b n"] | None, temperature: float
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Mean entropy of each token's assignment, and entropy of the mean assignment over tokens and ranks, in nats.

    The assignment of a token is ``softmax(-|z - e|^2 / temperature)`` over the codes. ``|z|^2`` is the same for all of
    them, so ``2 z . e - |e|^2`` has the same softmax. Memory is linear in tokens plus codes.

    Args:
        latents: The tokens.
        table: The codes; gradients flow to both.
        keep: True = counted.
        temperature: Divides the squared distances.
    """
    tokens = latents.flatten(0, 1)
    weights = tokens.new_ones(len(tokens)) if keep is None else keep.flatten().to(tokens.dtype)
    queries = torch.cat([2 * tokens, torch.ones_like(tokens[:, :1])], dim=1)
    keys = torch.cat([table, -table.square().sum(1, keepdim=True)], dim=1)
    _, entropies, assignments = _Attended.apply(queries, keys, None, weights, temperature)
    count = len(tokens) if keep is None else kept_per_rank(keep, tokens.dtype)
    return entropies / count, entropy(mean_over_ranks(assignments / count))


class _Attended(torch.autograd.Function):
    @staticmethod
    @override
    def forward(  # type: ignore[override]
        ctx: Any, queries: Tensor, keys: Tensor, values: Tensor | None, weights: Tensor, temperature: float | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        tops, log_sums, entropies = queries.new_zeros(3, len(queries)).unbind()
        assignments = keys.new_zeros(len(keys))
        if temperature is not None:
            for block, weight, top, log_sum, of_token in _blocks(
                len(keys), queries, weights, tops, log_sums, entropies
            ):
                logits = (block @ keys.T).div_(temperature)  # m v
                top.copy_(logits.amax(-1))
                shares = logits.sub_(top[:, None]).clamp_min_(NOTHING).exp()  # still to be divided by their sum
                total = shares.sum(-1)
                assignments += (weight / total) @ shares
                log_sum.copy_(total.log())
                of_token.copy_(log_sum - shares.mul_(logits).sum(-1) / total)
        ctx.save_for_backward(queries, keys, values, weights, tops, log_sums, entropies)
        ctx.temperature = temperature
        nothing = (queries - queries).sum(-1, keepdim=True)
        width = 0 if values is None else values.shape[1]
        return nothing.expand(-1, width).contiguous(), entropies @ weights, assignments

    @staticmethod
    @once_differentiable
    @override
    def backward(  # type: ignore[override]
        ctx: Any, to_attended: Tensor, to_entropies: Tensor, to_assignments: Tensor
    ) -> tuple[Tensor, Tensor, None, None, None]:
        queries, keys, values, weights, tops, log_sums, entropies = ctx.saved_tensors
        to_queries, to_keys = torch.empty_like(queries), torch.zeros_like(keys)
        blocks = _blocks(len(keys), queries, weights, tops, log_sums, entropies, to_attended, to_queries)
        for block, weight, top, log_sum, of_token, upstream, result in blocks:
            scores, parts = block @ keys.T, []  # m v
            if values is not None:
                parts.append(_through_softmax(scores.softmax(-1), upstream @ values.T))
            if ctx.temperature is not None:
                logs = scores.div_(ctx.temperature).sub_(top[:, None]).sub_(log_sum[:, None]).clamp_min_(NOTHING)
                shares = logs.exp()
                mean = shares @ to_assignments + to_entropies * of_token
                towards = logs.mul_(-to_entropies).add_(to_assignments).sub_(mean[:, None]).mul_(shares)
                parts.append(towards.mul_((weight / ctx.temperature)[:, None]))
            towards = parts[0] if len(parts) == 1 else parts[0].add_(parts[1])
            torch.mm(towards, keys, out=result)
            to_keys.addmm_(towards.T, block)
        return to_queries, to_keys, None, None, None


def _through_softmax(shares: Float[Tensor, "m v"], upstream: Float[Tensor, "m v"]) -> Float[Tensor, "m v"]:
    """The gradient to the logits of ``shares``; changes ``upstream``."""
    mean = (shares * upstream).sum(-1, keepdim=True)
    return upstream.sub_(mean).mul_(shares)


def _blocks(codes: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(tensor.split(block_rows(codes, tensor.device)) for tensor in tensors), strict=True)
