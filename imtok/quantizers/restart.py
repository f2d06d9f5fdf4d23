"""Dead codes drawn anew, from statistics that add up over micro-batches and ranks."""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor


@torch.no_grad()
def code_stats(
    latents: Float[Tensor, "b n d"],
    ids: Int64[Tensor, "b n"],
    codes: Float[Tensor, "b n d"],
    keep: Bool[Tensor, "b n"] | None,
    vocabulary: int,
) -> dict[str, Tensor]:
    """Per code: ``counts`` of its tokens, ``sums`` of their latents, ``errors``: summed squared distances from it.

    Args:
        latents: The latents that were replaced.
        ids: The code of each.
        codes: That code itself.
        keep: True = counted.
        vocabulary: Number of codes.
    """
    points, index, chosen = latents.flatten(0, 1), ids.flatten(), codes.flatten(0, 1)
    weights = points.new_ones(len(points)) if keep is None else keep.flatten().to(points.dtype)
    zeros = points.new_zeros(vocabulary)
    return {
        "counts": zeros.index_add(0, index, weights),
        "sums": points.new_zeros(vocabulary, points.shape[1]).index_add(0, index, points * weights[:, None]),
        "errors": zeros.index_add(0, index, (points - chosen).square().sum(-1) * weights),
    }


@torch.no_grad()
def fresh_codes(stats: dict[str, Tensor], seed: int) -> Float[Tensor, "v d"]:
    """A code drawn for each place in the codebook from the mixture of Gaussians that the batch's clusters make.

    Big clusters are drawn more often. That is a random token of the global batch up to its place inside its cluster,
    in a form that adds up; and every rank draws the same, since the random numbers depend only on ``seed``.

    Args:
        stats: What :func:`code_stats` counted, with at least one token.
        seed: Another one for each update.
    """
    generator = torch.Generator().manual_seed(seed)
    counts, sums = stats["counts"], stats["sums"]
    chosen = torch.multinomial(counts.double().cpu(), len(counts), replacement=True, generator=generator)
    noise = torch.randn(sums.shape, generator=generator).to(sums)
    size = counts.clamp_min(1)
    spread = (stats["errors"] / size / sums.shape[1]).sqrt()
    chosen = chosen.to(counts.device)
    return (sums / size[:, None])[chosen] + spread[chosen, None] * noise
