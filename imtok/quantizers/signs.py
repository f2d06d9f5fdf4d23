"""Sign codes: one bit per channel, no codebook to learn; what LFQ, BSQ, GQ and binary latents share."""

from collections.abc import Sequence
from itertools import combinations, islice

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from typing_extensions import override

from imtok.quantizers.base import Quantizer

LARGEST_SLOT = 20  # bits: a slot's table of 2^20 codes still fits into memory


class SignQuantizer(Quantizer):
    """A bit per channel, 1 where the latent is above 0 (so the sign of 0 is -1), and a value for either bit.

    A slot is a run of channels; its id reads their bits as a number whose least significant digit is the first
    channel. Subclasses write ``quantize``.

    Args:
        slot_bits: Number of channels of each slot, 1 to 20 each; their sum is the width of the latents.
        low: Value of bit 0.
        high: Value of bit 1.

    Raises:
        ValueError: For an empty list or a slot out of range.
    """

    anchor: Tensor

    def __init__(self, slot_bits: Sequence[int], low: float, high: float) -> None:
        super().__init__()
        if not slot_bits or min(slot_bits) < 1 or max(slot_bits) > LARGEST_SLOT:
            raise ValueError(
                f"slot_bits must be a list of whole numbers from 1 to {LARGEST_SLOT}, got {list(slot_bits)}; "
                "split longer codes into slots"
            )
        self.slot_bits = tuple(slot_bits)
        self.dim = sum(slot_bits)
        self.vocab_sizes = tuple(2**size for size in slot_bits)
        self.low = low
        self.high = high
        self.register_buffer("anchor", torch.empty(0), persistent=False)  # codes have its device and float type

    @override
    def decode(self, ids: Int64[Tensor, "b t g"], slots: int | None = None) -> Float[Tensor, "b n d"]:
        used = self.slot_bits[:slots]
        codes = self._codes(ids_to_bits(ids[..., : len(used)], used))
        return F.pad(codes, (0, self.dim - sum(used)))

    @override
    def codebook(self) -> list[Float[Tensor, "v d"]]:
        tables, first = [], 0
        for size, vocabulary in zip(self.slot_bits, self.vocab_sizes, strict=True):
            codes = self._codes(ids_to_bits(torch.arange(vocabulary, device=self.anchor.device)[:, None], [size]))
            tables.append(F.pad(codes, (first, self.dim - first - size)))
            first += size
        return tables

    @override
    def neighbours(self, ids: Int64[Tensor, "b t g"], count: int) -> Int64[Tensor, "b t g count"]:
        """The nearest codes by number of flipped bits; where that ties, those with the first channels flipped first.

        Raises:
            ValueError: If ``count`` exceeds a slot's vocabulary.
        """
        if not 1 <= count <= min(self.vocab_sizes):
            raise ValueError(
                f"count of neighbours must be between 1 and the vocabulary {min(self.vocab_sizes)}, got {count}"
            )
        return ids[..., None] ^ torch.tensor([_flips(size, count) for size in self.slot_bits], device=ids.device)

    def _codes(self, bits: Bool[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return torch.where(bits, self.anchor.new_full((), self.high), self.anchor.new_full((), self.low))


def bits_to_ids(bits: Bool[Tensor, "*shape d"], slot_bits: Sequence[int]) -> Int64[Tensor, "*shape g"]:
    """An id per slot; its least significant digit is the slot's first channel."""
    slots = bits.split(list(slot_bits), dim=-1)
    return torch.stack(
        [(slot.long() << torch.arange(slot.shape[-1], device=bits.device)).sum(-1) for slot in slots], -1
    )


def ids_to_bits(ids: Int64[Tensor, "*shape g"], slot_bits: Sequence[int]) -> Bool[Tensor, "*shape d"]:
    """The bits of all channels, slot after slot: the inverse of :func:`bits_to_ids`."""
    slot = torch.tensor([index for index, size in enumerate(slot_bits) for _ in range(size)], device=ids.device)
    place = torch.tensor([place for size in slot_bits for place in range(size)], device=ids.device)
    return (ids.index_select(-1, slot.long()) >> place.long() & 1).bool()


def _flips(size: int, count: int) -> list[int]:
    """The first ``count`` masks of ``size`` bits: fewest bits first, then lowest channels first."""
    masks = (
        sum(1 << channel for channel in channels)
        for flipped in range(size + 1)
        for channels in combinations(range(size), flipped)
    )
    return list(islice(masks, count))
