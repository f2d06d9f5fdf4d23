"""All slots of a token in one number, and the bit orders of other projects."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Int64
from torch import Tensor

from imtok.quantizers.signs import bits_to_ids, ids_to_bits

LARGEST = 2**62  # joint vocabulary: numbers of int64 with room to spare


def pack(ids: Int64[Tensor, "*shape g"], vocab_sizes: Sequence[int]) -> Int64[Tensor, "*shape"]:
    """One number per token: mixed-radix digits, slot 0 least significant.

    Args:
        ids: Token ids.
        vocab_sizes: Number of ids in each slot.

    Raises:
        ValueError: If the joint vocabulary exceeds 2^62 or an id lies outside its slot's vocabulary.

    Example:
        >>> pack(torch.tensor([[3, 2], [63, 4095]]), vocab_sizes=(64, 4096))
        tensor([   131, 262143])
        >>> unpack(torch.tensor([131]), vocab_sizes=(64, 4096))
        tensor([[3, 2]])
    """
    places, sizes = _places(vocab_sizes, ids.device)
    if ids.shape[-1] != len(vocab_sizes):
        raise ValueError(f"ids must have {len(vocab_sizes)} slots in their last axis, got shape {tuple(ids.shape)}")
    if ((ids < 0) | (ids >= sizes)).any():
        raise ValueError(
            f"ids must lie in vocabularies of {list(vocab_sizes)}, got {int(ids.min())} to {int(ids.max())}"
        )
    return (ids * places).sum(-1)


def unpack(packed: Int64[Tensor, "*shape"], vocab_sizes: Sequence[int]) -> Int64[Tensor, "*shape g"]:
    """The ids of each slot: the inverse of :func:`pack`.

    Raises:
        ValueError: If the joint vocabulary exceeds 2^62 or a number lies outside it.
    """
    places, sizes = _places(vocab_sizes, packed.device)
    joint = math.prod(vocab_sizes)
    if ((packed < 0) | (packed >= joint)).any():
        raise ValueError(f"packed ids must lie in [0, {joint}), got {int(packed.min())} to {int(packed.max())}")
    return packed[..., None] // places % sizes


def reverse_bits(ids: Int64[Tensor, "*shape g"], slot_bits: Sequence[int]) -> Int64[Tensor, "*shape g"]:
    """Ids of the same signs with the first channel of each slot as the *most* significant digit, and back.

    lucidrains' LFQ and bsq-vit count that way. Their ids of all channels are one slot here: reverse them as such,
    then ``unpack`` them into slots. bsq-vit's grouped ids are slots already.

    Args:
        ids: Token ids of a sign code (LFQ, BSQ, GQ, binary).
        slot_bits: Number of channels of each slot.

    Example:
        >>> reverse_bits(torch.tensor([8]), slot_bits=[4])  # signs (+, -, -, -): 8 there, 1 here
        tensor([1])
        >>> unpack(reverse_bits(torch.tensor([[2**17]]), slot_bits=[18])[..., 0], vocab_sizes=(64, 4096))
        tensor([[1, 0]])
    """
    reversed_slots = [
        bits_to_ids(slot.flip(-1), [slot.shape[-1]])
        for slot in ids_to_bits(ids, slot_bits).split(list(slot_bits), dim=-1)
    ]
    return torch.cat(reversed_slots, dim=-1)


def _places(vocab_sizes: Sequence[int], device: torch.device) -> tuple[Int64[Tensor, " g"], Int64[Tensor, " g"]]:
    """Value of each slot's digit, and the vocabularies."""
    joint = math.prod(vocab_sizes)
    if joint > LARGEST:
        raise ValueError(
            f"the joint vocabulary must be at most 2^62 to be packed, got 2^{math.log2(joint):.1f}; keep slots apart"
        )
    places = [math.prod(vocab_sizes[:slot]) for slot in range(len(vocab_sizes))]
    return torch.tensor(places, device=device), torch.tensor(list(vocab_sizes), device=device)
