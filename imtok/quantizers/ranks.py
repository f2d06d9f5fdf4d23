"""Means over tokens and ranks inside a quantizer's forward.

Only a pass that will be differentiated talks to other ranks: ranks that evaluate or encode need not do so in step.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from imtok import distributed


def mean_over_ranks(value: Tensor) -> Tensor:
    """:func:`imtok.distributed.mean_over_ranks` where gradients are wanted, else ``value`` itself."""
    return distributed.mean_over_ranks(value) if torch.is_grad_enabled() else value


def kept_per_rank(keep: Bool[Tensor, "b n"], dtype: torch.dtype) -> Float[Tensor, ""]:
    """Mean number of kept tokens per rank: what each rank divides its sums by, so that tokens weigh the same on all.

    The collective runs whenever gradients are wanted and never by what the mask holds. Where no rank keeps a token,
    it is what a single one would give, so that the mean of nothing is 0.

    Args:
        keep: True where a token is kept, on this rank; another rank may keep none.
        dtype: Of the sums.
    """
    return mean_over_ranks(keep.sum(dtype=dtype)).clamp_min(1 / distributed.world_size())


def batch_moments(
    latents: Float[Tensor, "b n d"], keep: Bool[Tensor, "b n"] | None
) -> tuple[Float[Tensor, " d"], Float[Tensor, " d"]]:
    """Mean and variance of each channel over the kept tokens of all ranks, with gradients.

    The variance is unbiased: the sum of squares is divided by one less than the number of tokens, or by 1.

    Args:
        latents: Zero where they are not kept.
        keep: True = counted; None = all of them, as many on each rank.
    """
    everywhere = latents.new_ones(latents.shape[:2], dtype=torch.bool) if keep is None else keep
    count = kept_per_rank(everywhere, latents.dtype)
    mean = mean_over_ranks(latents.sum((0, 1)) / count)
    apart = (latents - mean.detach()).masked_fill(~everywhere[..., None], 0)  # least at the mean: it has no gradient
    ranks = distributed.world_size() if torch.is_grad_enabled() else 1
    return mean, mean_over_ranks(apart.square().sum((0, 1)) / (count - 1 / ranks).clamp_min(1 / ranks))
