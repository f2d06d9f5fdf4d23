"""Different quantizers for different tokens of a sequence (holistic queries and patches: Hita, arXiv 2507.02358)."""

import math
from collections.abc import Sequence
from itertools import accumulate

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from typing_extensions import override

from imtok.quantizers.base import Quantizer
from imtok.quantizers.composition import add_stats, as_images, branch_losses, merge_losses, stats_of
from imtok.types import Quantized


class Segments(Quantizer):
    """Cuts the sequence into pieces and gives each piece to a quantizer of its own.

    The pieces share one vocabulary, in which each has its own range: the ids of piece ``i`` are those of its
    quantizer plus the vocabularies of the pieces before it. So an id says by itself which piece it belongs to, the
    table of a slot is the pieces' tables one below the other, and codebook, usage and export work as for any other
    quantizer. Only ``bits_per_token`` knows that a token's piece is no news: it is the mean over tokens of the bits
    of the piece's own vocabulary.

    A piece whose quantizer is narrower than the widest uses the first channels; its others are zero.

    Args:
        parts: A quantizer for each piece, with the same number of slots.
        lengths: Number of latents of each piece, in the order of the sequence.
        loss_weight: Factor of the pieces' losses: 1 sums them, 1 / number of pieces averages them.

    Raises:
        ValueError: Without parts, for parts that differ in slots, lengths that are not one per part and at least 1
            (and what the part takes), or a negative weight; in ``forward``, for a sequence of another length.

    Example:
        >>> from imtok.quantizers.vq import VQ
        >>> quantizer = Segments([VQ(dim=12, codebook_size=64), VQ(dim=8, codebook_size=256)], lengths=[4, 16])
        >>> quantizer.dim, quantizer.vocab_sizes, quantizer.bits_per_token
        (12, (320,), 7.6)
        >>> ids = quantizer(torch.randn(1, 20, 12)).ids
        >>> bool((ids[:, :4] < 64).all()), bool((ids[:, 4:] >= 64).all())
        (True, True)
    """

    def __init__(self, parts: Sequence[Quantizer], lengths: Sequence[int], loss_weight: float = 1.0) -> None:
        super().__init__()
        if not parts or len({len(part.vocab_sizes) for part in parts}) > 1:
            slots = [len(part.vocab_sizes) for part in parts]
            raise ValueError(f"parts must be quantizers with the same number of slots, got slots {slots}")
        if len(lengths) != len(parts) or min(lengths) < 1:
            raise ValueError(f"lengths must be {len(parts)} whole numbers >= 1, one per part, got {list(lengths)}")
        if loss_weight < 0:
            raise ValueError(f"loss_weight must not be negative, got {loss_weight}")
        for part, length in zip(parts, lengths, strict=True):
            if part.num_latents not in (None, length):
                raise ValueError(f"lengths must fit the parts, got {length} for one that takes {part.num_latents}")
        self.parts = nn.ModuleList(parts)
        self.lengths = tuple(lengths)
        self.loss_weight = loss_weight
        self.dim = max(part.dim for part in parts)
        self.num_latents = sum(lengths)
        self.part_vocab_sizes = tuple(part.vocab_sizes for part in parts)
        self.vocab_sizes = tuple(map(sum, zip(*self.part_vocab_sizes, strict=True)))

    @override
    def quantize(self, latents: Float[Tensor, "b n d"], keep: Bool[Tensor, "b n"] | None) -> Quantized:
        self.num_tokens(latents.shape[1])
        masks = [None] * len(self.lengths) if keep is None else keep.split(self.lengths, dim=1)
        pieces = zip(self._parts, latents.split(self.lengths, dim=1), masks, strict=True)
        results = [part.quantize(piece[..., : part.in_dim], mask) for part, piece, mask in pieces]
        stats: dict[str, Tensor] = {}
        for index, result in enumerate(results):
            add_stats(stats, index, result.stats)
        ids = [result.ids + first for result, first in zip(results, self._firsts(latents.device), strict=True)]
        losses = merge_losses([result.losses for result in results], self.loss_weight)
        losses |= branch_losses([result.losses for result in results])
        return Quantized(
            self._join([result.latents for result in results]), torch.cat(ids, 1), losses=losses, stats=stats
        )

    @override
    def decode(self, ids: Int64[Tensor, "b t g"], slots: int | None = None) -> Float[Tensor, "b n d"]:
        pieces = zip(self._parts, self._own_ids(ids), strict=True)
        return self._join([part.look_up(own, slots) for part, own in pieces])

    @override
    def check_ids(self, ids: Tensor, slots: int | None = None) -> None:
        super().check_ids(ids, slots)
        if ids.shape[1] != sum(self._tokens):
            raise ValueError(f"ids must be those of all {sum(self._tokens)} tokens, got {ids.shape[1]}")
        firsts = self._firsts(ids.device)
        for piece, (own, first, part) in enumerate(zip(ids.split(self._tokens, 1), firsts, self._parts, strict=True)):
            sizes = torch.tensor(part.vocab_sizes, device=ids.device)
            width = min(own.shape[-1], len(sizes))
            own, first, sizes = own[..., :width], first[:width], sizes[:width]
            outside = ((own < first) | (own >= first + sizes)) & (own != 0)  # 0 where a latent was not kept
            if outside[..., :slots].any():
                slot = int(outside.flatten(0, -2).any(0).nonzero()[0])
                column, low = own[..., slot], int(first[slot])
                raise ValueError(
                    f"ids of slot {slot} in piece {piece} must lie in [{low}, {low + int(sizes[slot])}), "
                    f"got {int(column.min())} to {int(column.max())}"
                )

    @override
    def codebook(self) -> list[Float[Tensor, "v d"]]:
        tables = [[F.pad(table, (0, self.dim - part.dim)) for table in part.codebook()] for part in self._parts]
        return [torch.cat(slot) for slot in zip(*tables, strict=True)]

    @override
    def neighbours(self, ids: Int64[Tensor, "b t g"], count: int) -> Int64[Tensor, "b t g count"]:
        pieces = zip(self._parts, self._own_ids(ids), self._firsts(ids.device), strict=True)
        return torch.cat([part.neighbours(own, count) + first[:, None] for part, own, first in pieces], dim=1)

    @override
    def start(self, latents: Float[Tensor, "m d"]) -> None:
        pieces = as_images(latents, self.num_latents).split(self.lengths, dim=1)
        for part, piece in zip(self._parts, pieces, strict=True):
            part.start(piece[..., : part.in_dim].flatten(0, 1))

    @override
    def update(self, stats: dict[str, Tensor]) -> None:
        for index, part in enumerate(self._parts):
            part.update(stats_of(index, stats))

    @override
    def num_tokens(self, num_latents: int) -> int:
        if num_latents != self.num_latents:
            raise ValueError(f"latents must be {self.num_latents}, the sum of lengths, got {num_latents}")
        return sum(self._tokens)

    @property
    @override
    def in_dim(self) -> int:
        return max(part.in_dim for part in self._parts)

    @property
    @override
    def bits_per_token(self) -> float:
        bits = [count * part.bits_per_token for count, part in zip(self._tokens, self._parts, strict=True)]
        return math.fsum(bits) / sum(self._tokens)

    @property
    def _parts(self) -> list[Quantizer]:
        return [part for part in self.parts if isinstance(part, Quantizer)]

    @property
    def _tokens(self) -> list[int]:
        return [part.num_tokens(length) for part, length in zip(self._parts, self.lengths, strict=True)]

    def _firsts(self, device: torch.device) -> list[Int64[Tensor, " g"]]:
        """Of each piece, the first id of each slot."""
        ends = [list(accumulate(sizes)) for sizes in zip(*self.part_vocab_sizes, strict=True)]
        firsts = torch.tensor([[0, *slot[:-1]] for slot in ends], device=device, dtype=torch.long)
        return list(firsts.view(len(ends), len(self.lengths)).T)  # there may be no slot

    def _own_ids(self, ids: Int64[Tensor, "b t g"]) -> list[Tensor]:
        """The ids of each piece in its quantizer's vocabulary; 0 where a latent was not kept."""
        pieces = zip(ids.split(self._tokens, dim=1), self._firsts(ids.device), strict=True)
        return [(own - first).clamp_min(0) for own, first in pieces]

    def _join(self, pieces: list[Tensor]) -> Float[Tensor, "b n d"]:
        return torch.cat([F.pad(piece, (0, self.dim - piece.shape[-1])) for piece in pieces], dim=1)
