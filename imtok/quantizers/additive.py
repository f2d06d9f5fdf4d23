"""Additive quantization: codes of several tables of full width, chosen together (Babenko and Lempitsky, CVPR 2014)."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from typing_extensions import override

from imtok.quantizers.base import Quantizer, straight_through
from imtok.quantizers.beam import free_search, improved
from imtok.quantizers.composition import add_stats, merge_losses
from imtok.quantizers.residual import Residual, require_nearest
from imtok.quantizers.table import NearestQuantizer
from imtok.types import Loss, Quantized


class Additive(Residual):
    """The sum of one code of each table; no table is coarser than another.

    ``q = e_1 + ... + e_G`` with the codes that bring it nearest to ``z``, as far as a search finds them: a beam over
    the tables in any order, and then ``rounds`` of iterated conditional modes, in which each table in turn takes the
    code that is best beside the others (LSQ, Martinez et al., ECCV 2016). The losses are those of VQ for the whole sum,
    ``codebook = mean |q - sg z|^2`` and ``commit = mean |z - sg q|^2``, with one straight-through estimator.

    A table sees what the others leave of a latent, ``z - (q - e_g)``: its statistics, dead codes and averages are of
    that. Tables start as those of a residual do. The first slots alone mean little.

    Args:
        stages: A quantizer of one table (VQ without ``normalize``, EMAVQ, SimVQ) for each slot.
        beam: Number of partial sums that are followed.
        rounds: How often each table may change its code afterwards; 0 = never.

    Raises:
        ValueError: Without stages, for stages that differ in width or do not choose the nearest code of a table, for a
            beam below 1 or negative rounds.

    Example:
        >>> from imtok.quantizers.vq import VQ
        >>> quantizer = Additive([VQ(dim=4, codebook_size=64, normalize=False) for _ in range(3)])
        >>> quantizer.vocab_sizes, quantizer(torch.randn(1, 16, 4)).ids.shape
        ((64, 64, 64), torch.Size([1, 16, 3]))
    """

    def __init__(self, stages: Sequence[Quantizer], beam: int = 4, rounds: int = 2) -> None:
        require_nearest(stages, "other stages")
        super().__init__(stages, beam=beam)
        if rounds < 0:
            raise ValueError(f"rounds must not be negative, got {rounds}")
        self.rounds = rounds

    @override
    def quantize(self, latents: Float[Tensor, "b n d"], keep: Bool[Tensor, "b n"] | None) -> Quantized:
        ids = self._searched(latents)
        total = self.look_up(ids).to(latents.dtype).detach()
        losses: list[dict[str, Loss]] = []
        stats: dict[str, Tensor] = {}
        stages = [stage for stage in self._depths if isinstance(stage, NearestQuantizer)]
        for index, stage in enumerate(stages):
            own = stage.look_up(ids[..., index : index + 1]).to(latents.dtype).detach()
            rest = latents - (total - own)
            rest = rest if keep is None else rest.masked_fill(~keep[..., None], 0)
            result = stage.quantize(rest, keep, ids[..., index])
            losses.append(result.losses)
            add_stats(stats, index, result.stats)
        merged = merge_losses(losses, 1 / len(stages))
        if "codebook" in merged:  # each table has one stage's gradient, while all have that of the latents
            merged["codebook"] = Loss(merged["codebook"].value, merged["codebook"].weight * len(stages))
        return Quantized(straight_through(total, latents), ids, losses=merged, stats=stats)

    @torch.no_grad()
    def _searched(self, latents: Float[Tensor, "b n d"]) -> Int64[Tensor, "b n g"]:
        tables = [table.to(latents.dtype) for table in self.codebook()]
        flat = latents.flatten(0, 1)
        ids = free_search(flat, tables, self.beam)
        return improved(flat, tables, ids, self.rounds).view(*latents.shape[:2], -1)
