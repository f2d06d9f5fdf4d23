"""Product quantization: several quantizers side by side (ImageFolder, arXiv 2410.01756; FQGAN, arXiv 2411.16681)."""

from collections.abc import Sequence
from itertools import combinations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from typing_extensions import override

from imtok.quantizers.base import Quantizer, token_mean
from imtok.quantizers.composition import (
    add_stats,
    branch_losses,
    check_parts,
    decode_part,
    merge_losses,
    slot_ranges,
    stats_of,
)
from imtok.quantizers.sphere import SHORT_LATENT
from imtok.types import Loss, Quantized


class Product(Quantizer):
    """Gives each part its own channels and its own slots.

    ``q = [q_1(z_1) | ... | q_P(z_P)]``, where ``z = [z_1 | ... | z_P]`` in channels. A tokenizer whose branches are
    pieces of the sequence lays them side by side in channels first.

    ``disentangle = mean cos(q_a, q_b)^2`` over tokens and pairs of parts keeps the parts from saying the same; its
    gradient reaches the encoder through the codes.

    The log has each loss of all parts together (``commit``), and beside it that of each part (``commit_0``).

    Args:
        parts: A quantizer for each group of channels, first channels first; any mixture, nested too.
        loss_weight: Factor of the parts' losses: 1 sums them (FQGAN), 1 / number of parts averages them (ImageFolder).
        disentangle_weight: Weight of the disentanglement loss; 0 = off.

    Raises:
        ValueError: Without parts, for a negative weight, for parts that make different numbers of tokens, or for
            disentanglement of fewer than two parts or of parts that differ in width.

    Example:
        >>> from imtok.quantizers.fsq import FSQ
        >>> quantizer = Product([FSQ([8, 8]), FSQ([5, 5, 5])])
        >>> quantizer.dim, quantizer.part_dims, quantizer.vocab_sizes
        (5, (2, 3), (64, 125))
        >>> quantizer(torch.zeros(1, 16, 5)).ids.shape
        torch.Size([1, 16, 2])
    """

    def __init__(self, parts: Sequence[Quantizer], loss_weight: float = 1.0, disentangle_weight: float = 0.0) -> None:
        super().__init__()
        if not parts:
            raise ValueError("parts must be at least one quantizer, got none")
        if min(loss_weight, disentangle_weight) < 0:
            raise ValueError(f"loss weights must not be negative, got {loss_weight} and {disentangle_weight}")
        widths = [part.dim for part in parts]
        if disentangle_weight and (len(parts) < 2 or len(set(widths)) > 1):
            raise ValueError(f"parts must be two or more of one width to be disentangled, got widths {widths}")
        lengths = {length for length in (part.num_latents for part in parts) if length is not None}
        if len(lengths) > 1 or len({part.num_tokens(max(lengths, default=1)) for part in parts}) > 1:
            raise ValueError("parts must make the same number of tokens of the same latents, got different numbers")
        self.parts = nn.ModuleList(parts)
        self.dim = sum(widths)
        self.vocab_sizes = tuple(size for part in parts for size in part.vocab_sizes)
        self.num_latents = max(lengths, default=None)
        self.loss_weight = loss_weight
        self.disentangle_weight = disentangle_weight

    @override
    def quantize(self, latents: Float[Tensor, "b n d"], keep: Bool[Tensor, "b n"] | None) -> Quantized:
        results = [part.quantize(own, keep) for part, own in zip(self._parts, self._split(latents), strict=True)]
        losses = merge_losses([result.losses for result in results], self.loss_weight)
        losses |= branch_losses([result.losses for result in results])
        if self.disentangle_weight:
            cosines = [
                F.cosine_similarity(one.latents, two.latents, dim=-1, eps=SHORT_LATENT)
                for one, two in combinations(results, 2)
            ]
            overlap = torch.stack(cosines).square().mean(0)
            losses["disentangle"] = Loss(token_mean(overlap, keep), self.disentangle_weight)
        stats: dict[str, Tensor] = {}
        for index, result in enumerate(results):
            add_stats(stats, index, result.stats)
        codes = torch.cat([result.latents for result in results], dim=-1)
        return Quantized(codes, torch.cat([result.ids for result in results], dim=-1), losses=losses, stats=stats)

    @override
    def decode(self, ids: Int64[Tensor, "b t g"], slots: int | None = None) -> Float[Tensor, "b n d"]:
        ranges = zip(self._parts, slot_ranges(self._parts), strict=True)
        return torch.cat([decode_part(part, ids, own, slots) for part, own in ranges], dim=-1)

    @override
    def check_ids(self, ids: Tensor, slots: int | None = None) -> None:
        super().check_ids(ids, slots)
        check_parts(self._parts, ids, slots)

    @override
    def soft_decode(self, probabilities: Sequence[Float[Tensor, "b t _"]]) -> Float[Tensor, "b n d"]:
        ranges = zip(self._parts, slot_ranges(self._parts), strict=True)
        return torch.cat([part.soft_decode(probabilities[own]) for part, own in ranges], dim=-1)

    @override
    def codebook(self) -> list[Float[Tensor, "v d"]]:
        tables, before = [], 0
        for part in self._parts:
            after = self.dim - before - part.dim
            tables += [F.pad(table, (before, after)) for table in part.codebook()]
            before += part.dim
        return tables

    @override
    def neighbours(self, ids: Int64[Tensor, "b t g"], count: int) -> Int64[Tensor, "b t g count"]:
        ranges = zip(self._parts, slot_ranges(self._parts), strict=True)
        return torch.cat([part.neighbours(ids[..., own], count) for part, own in ranges], dim=-2)

    @override
    def start(self, latents: Float[Tensor, "m d"]) -> None:
        for part, own in zip(self._parts, self._split(latents), strict=True):
            part.start(own)

    @override
    def update(self, stats: dict[str, Tensor]) -> None:
        for index, part in enumerate(self._parts):
            part.update(stats_of(index, stats))

    @override
    def num_tokens(self, num_latents: int) -> int:
        return self._parts[0].num_tokens(num_latents)

    @property
    @override
    def in_dim(self) -> int:
        return sum(part.in_dim for part in self._parts)

    @property
    @override
    def part_dims(self) -> tuple[int, ...]:
        return tuple(width for part in self._parts for width in part.part_dims)

    def _split(self, latents: Float[Tensor, "*shape d"]) -> tuple[Tensor, ...]:
        return latents.split([part.in_dim for part in self._parts], dim=-1)

    @property
    def _parts(self) -> list[Quantizer]:
        return [part for part in self.parts if isinstance(part, Quantizer)]
