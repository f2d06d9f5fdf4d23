"""Residual quantization: each depth quantizes what the depths before it left over (RQ-VAE, arXiv 2203.01941)."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from typing_extensions import override

from imtok.quantizers.base import Quantizer, straight_through
from imtok.quantizers.beam import ordered_search
from imtok.quantizers.composition import (
    add_stats,
    as_images,
    check_parts,
    decode_part,
    merge_losses,
    require_own_width,
    slot_ranges,
    stats_of,
)
from imtok.quantizers.table import NearestQuantizer
from imtok.types import Loss, Quantized

SCORES = ("last", "sum")


class Residual(Quantizer):
    """A coarse code and ever finer corrections, whose sum stands for the latent.

    ``r_0 = z``, ``q_i = s_i Q_i(r_{i-1} / s_i)``, ``r_i = r_{i-1} - sg q_i`` and ``q = q_1 + ... + q_D``, with a
    single straight-through estimator around the sum. The losses are the mean over depths of the stages' own, in units
    of ``s_i``. Since ``r_{i-1} - q_i = z - (q_1 + ... + q_i)``, the mean of a VQ's commitment losses is RQ-VAE's
    commitment loss, which draws the latent to every partial sum.

    A stage that all depths share (as in RQ-VAE) learns once per step from the residuals of all depths.

    Each depth takes the code nearest to its residual. With ``beam=N`` the N best partial sums are followed instead, in
    training too unless ``training_beam`` says otherwise. It lowers the error for N times the work, and decoding stays
    as it is. The first slots alone are then no longer what a quantizer of that depth would choose.

    Args:
        stages: A quantizer for each depth, coarsest first; or a single one that all depths share.
        depth: Number of depths; None = as many as stages.
        ratio: ``s_{i+1} / s_i``, a number or one per channel, positive; ``s_1 = 1``. Codes of a learned codebook find
            their own scale (1); those of a grid have to shrink by its step.
        bound: If given, latents pass ``bound * tanh(z / bound)`` first, so that grids of limited range can follow.
        beam: Number of partial sums that are followed; 1 = the nearest code of each depth.
        training_beam: The same in training; None = ``beam``.
        beam_score: By what partial sums are best: ``last``: their squared error; ``sum``: that of all depths so far, as
            in vector-quantize-pytorch, which also serves those who use the first slots alone.

    Raises:
        ValueError: Without stages, for stages that differ in width or number of tokens or that take more than their
            codes' width, for a depth that is not their number, or a ratio or bound that is not positive; for a beam
            below 1, an unknown score, or a beam over stages that do not choose the nearest code of a table.

    Example:
        >>> from imtok.quantizers.vq import VQ
        >>> quantizer = Residual([VQ(dim=4, codebook_size=64, normalize=False)], depth=8)
        >>> quantizer.vocab_sizes, quantizer.bits_per_token
        ((64, 64, 64, 64, 64, 64, 64, 64), 48.0)
        >>> quantizer(torch.randn(1, 16, 4)).ids.shape
        torch.Size([1, 16, 8])
    """

    scales: Float[Tensor, "depth d"]

    def __init__(
        self,
        stages: Sequence[Quantizer],
        depth: int | None = None,
        ratio: float | Sequence[float] = 1.0,
        bound: float | None = None,
        beam: int = 1,
        training_beam: int | None = None,
        beam_score: str = "last",
    ) -> None:
        super().__init__()
        if not stages or len({(stage.dim, stage.num_latents) for stage in stages}) > 1:
            raise ValueError(f"stages must be quantizers of one width and length, got {[s.dim for s in stages]}")
        require_own_width(stages, "stages")
        depth = len(stages) if depth is None else depth
        if depth < 1 or len(stages) not in (1, depth):
            raise ValueError(f"depth must be the number of stages, or at least 1 for a single stage, got {depth}")
        ratios = ratio if isinstance(ratio, Sequence) else [ratio]
        if not all(value > 0 for value in ratios) or (bound is not None and bound <= 0):
            raise ValueError(f"ratio and bound must be positive, got {ratio} and {bound}")
        training_beam = beam if training_beam is None else training_beam
        if min(beam, training_beam) < 1 or beam_score not in SCORES:
            raise ValueError(
                f"beams must be at least 1 and beam_score {' or '.join(SCORES)}, got {beam}, {training_beam} and "
                f"{beam_score}"
            )
        if max(beam, training_beam) > 1:
            require_nearest(stages, "other stages or beam=1")
        factors = torch.tensor(ratios, dtype=torch.float32).expand(stages[0].dim)
        self.stages = nn.ModuleList(stages)
        self.dim = stages[0].dim
        self.depth = depth
        self.bound = bound
        self.beam = beam
        self.training_beam = training_beam
        self.beam_score = beam_score
        self.num_latents = stages[0].num_latents
        self.vocab_sizes = tuple(size for stage in self._depths for size in stage.vocab_sizes)
        self.register_buffer("scales", factors ** torch.arange(depth)[:, None], persistent=False)

    @override
    def quantize(self, latents: Float[Tensor, "b n d"], keep: Bool[Tensor, "b n"] | None) -> Quantized:
        target = self._bounded(latents)
        chosen = self._chosen(target)
        total = torch.zeros_like(target)
        ids: list[Tensor] = []
        losses: list[dict[str, Loss]] = []
        stats: dict[str, Tensor] = {}
        for index, (stage, scale) in enumerate(zip(self._depths, self.scales.to(target.dtype), strict=True)):
            rest = (target - total) / scale
            rest = rest if keep is None else rest.masked_fill(~keep[..., None], 0)
            result = stage.quantize(rest, keep, **({} if chosen is None else {"ids": chosen[..., index]}))
            total = total + result.latents.detach() * scale
            ids.append(result.ids)
            losses.append(result.losses)
            add_stats(stats, min(index, len(self.stages) - 1), result.stats)
        merged = merge_losses(losses, 1 / self.depth)
        return Quantized(straight_through(total, target), torch.cat(ids, dim=-1), losses=merged, stats=stats)

    @override
    def decode(self, ids: Int64[Tensor, "b t g"], slots: int | None = None) -> Float[Tensor, "b n d"]:
        ranges = zip(self._depths, slot_ranges(self._depths), self.scales, strict=True)
        parts = [decode_part(stage, ids, own, slots) * scale for stage, own, scale in ranges]
        total = torch.zeros_like(parts[0])
        for part in parts:  # in the order of quantize, so that not even the last bit differs
            total = total + part
        return total

    @override
    def check_ids(self, ids: Tensor, slots: int | None = None) -> None:
        super().check_ids(ids, slots)
        check_parts(self._depths, ids, slots)

    @override
    def codebook(self) -> list[Float[Tensor, "v d"]]:
        return [
            table * scale for stage, scale in zip(self._depths, self.scales, strict=True) for table in stage.codebook()
        ]

    @override
    def neighbours(self, ids: Int64[Tensor, "b t g"], count: int) -> Int64[Tensor, "b t g count"]:
        ranges = zip(self._depths, slot_ranges(self._depths), strict=True)
        return torch.cat([stage.neighbours(ids[..., own], count) for stage, own in ranges], dim=-2)

    @override
    @torch.no_grad()
    def start(self, latents: Float[Tensor, "m d"]) -> None:
        rest = self._bounded(latents)
        inputs = []
        for index, (stage, scale) in enumerate(zip(self._depths, self.scales.to(rest.dtype), strict=True)):
            inputs.append(rest / scale)
            if index < len(self.stages):
                stage.start(inputs[-1])
            codes = stage.decode(stage(as_images(inputs[-1], self.num_latents)).ids).flatten(0, 1)
            rest = rest - codes.to(rest.dtype) * scale
        if len(self.stages) < self.depth:
            self._depths[0].start(torch.cat(inputs))

    @override
    def update(self, stats: dict[str, Tensor]) -> None:
        for index, stage in enumerate(self._depths[: len(self.stages)]):
            stage.update(stats_of(index, stats))

    @override
    def num_tokens(self, num_latents: int) -> int:
        return self._depths[0].num_tokens(num_latents)

    @property
    @override
    def part_dims(self) -> tuple[int, ...]:
        return self._depths[0].part_dims

    def _chosen(self, target: Float[Tensor, "b n d"]) -> Int64[Tensor, "b n g"] | None:
        """The codes of a beam search; None where each depth chooses by itself."""
        width = self.training_beam if self.training else self.beam
        if width == 1:
            return None
        tables = [table.to(target.dtype) for table in self.codebook()]
        found = ordered_search(target.flatten(0, 1), tables, width, self.beam_score)
        return found.view(*target.shape[:2], -1)

    @property
    def _depths(self) -> list[Quantizer]:
        stages = [stage for stage in self.stages if isinstance(stage, Quantizer)]
        return stages * self.depth if len(stages) == 1 else stages

    def _bounded(self, latents: Float[Tensor, "*shape d"]) -> Float[Tensor, "*shape d"]:
        return latents if self.bound is None else (latents / self.bound).tanh() * self.bound


def require_nearest(stages: Sequence[Quantizer], instead: str) -> None:
    """Refuse stages whose codes a search over several tables cannot choose.

    Args:
        stages: The quantizers.
        instead: What to choose instead.

    Raises:
        ValueError: That names the class of the first.
    """
    for stage in stages:
        if not isinstance(stage, NearestQuantizer):
            raise ValueError(
                "stages must each choose the nearest code of one table (VQ, EMAVQ, SimVQ, FVQ) to be searched "
                f"together, got {type(stage).__name__}; choose {instead}"
            )
        if stage.estimate.chooses:
            raise ValueError(
                f"stages must take the codes of a beam search, and the estimator of {type(stage).__name__} draws its "
                f"own; choose another estimator or {instead}"
            )
