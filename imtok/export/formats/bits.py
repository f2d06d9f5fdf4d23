"""Binary codes bit by bit, for generators that predict bits in place of ids.

MaskBit (arXiv 2409.16211), Infinity (arXiv 2412.04431), BAR (arXiv 2602.09024) and BitDance take the codes of LFQ, BSQ
and FSQ as vectors of -1 and +1, since a token of 18 bits has too many ids for a softmax.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64, Shaped
from typing_extensions import override

from imtok.errors import InputError
from imtok.export.formats.base import Format, write_arrays
from imtok.export.store import TokenStore

BINARY = ("LFQ", "BSQ", "GQ", "Binary")  # quantizers whose ids are bits; stores of earlier versions say no more


class Bits(Format):
    """``bits-00000.npy``, int8 ``images views tokens bits``, and ``labels-00000.npy``, int64, for each shard.

    A bit is +1 where a channel of the code has the upper of its two values and -1 where it has the lower. The bits
    of a token are the channels of its latent in their order, the slots after each other. The axis of views is left
    out where there is one view, as in the store. A token that an image leaves out is all zeros. Images without a
    class have the label -1.
    """

    @override
    def check(self, store: TokenStore, folder: Path) -> None:
        slot_bits_of(store)

    @override
    def write(self, store: TokenStore, folder: Path) -> dict[str, Any]:
        slot_bits = slot_bits_of(store)
        write_arrays(store, folder, "bits", lambda shard: to_bits(np.asarray(shard.ids), slot_bits, shard.keep))
        tokens, scales = store.manifest["tokens"], store.manifest.get("scales")
        notes = [f"{tokens} tokens of {sum(slot_bits)} bits per image, -1 or +1"]
        if scales:
            notes.append(f"they stand scale after scale, maps of {', '.join(f'{side}x{side}' for side in scales)}")
        if store.manifest["variable_length"]:
            notes.append("the bits of a token that an image leaves out are 0")
        facts = {"slot_bits": list(slot_bits), "tokens": tokens, **({"scales": scales} if scales else {})}
        return {"bits": facts, "notes": notes}


def slot_bits_of(store: TokenStore) -> tuple[int, ...]:
    """How many bits each slot of a token has.

    Raises:
        InputError: If ids of the store are no bits.
    """
    manifest = store.manifest
    name, sizes = manifest.get("quantizer"), manifest["vocab_sizes"]
    if "slot_bits" in manifest:
        return tuple(manifest["slot_bits"])
    if name in BINARY:
        return tuple(size.bit_length() - 1 for size in sizes)
    raise InputError(
        f"format=bits takes the ids of a binary quantizer ({', '.join(BINARY)}) or of FSQ with two levels per channel, "
        f"and {store.folder} has those of {name}; give another format, as format=webdataset"
    )


def to_bits(
    ids: Shaped[np.ndarray, "*b t g"], slot_bits: Sequence[int], keep: Bool[np.ndarray, "*b t"] | None = None
) -> Shaped[np.ndarray, "*b t bits"]:
    """Ids as int8 of -1 and +1, the first channel of each slot first; zeros where a token is left out.

    Example:
        >>> to_bits(np.array([[5, 2]]), slot_bits=[3, 2])
        array([[ 1, -1,  1, -1,  1]], dtype=int8)
        >>> from_bits(np.array([[1, -1, 1, -1, 1]]), slot_bits=[3, 2])
        (array([[5, 2]]), None)
    """
    slots, places = _channels(slot_bits)
    bits = ((ids[..., slots].astype(np.int64) >> places & 1) * 2 - 1).astype(np.int8)
    return bits if keep is None else np.where(keep[..., None], bits, np.int8(0))


def from_bits(
    bits: Shaped[np.ndarray, "*b t bits"], slot_bits: Sequence[int]
) -> tuple[Int64[np.ndarray, "*b t g"], Bool[np.ndarray, "*b t"] | None]:
    """The ids that ``to_bits`` was given, and which tokens are there; None = all.

    Raises:
        ValueError: If a token has another number of bits, or one that is neither -1 nor +1.
    """
    if bits.shape[-1] != sum(slot_bits):
        raise ValueError(f"a token must have {sum(slot_bits)} bits in the last axis, got shape {bits.shape}")
    keep = (bits != 0).any(-1)
    if not np.isin(bits[keep], (-1, 1)).all():
        raise ValueError("bits must be -1 or +1, and all 0 in a token that is left out")
    slots, places = _channels(slot_bits)
    ones = (bits > 0).astype(np.int64) << places
    ids = np.stack([ones[..., slots == slot].sum(-1) for slot in range(len(slot_bits))], -1)
    return ids, None if keep.all() else keep


def _channels(slot_bits: Sequence[int]) -> tuple[Int64[np.ndarray, " bits"], Int64[np.ndarray, " bits"]]:
    """The slot of each channel, and its place in the slot's id."""
    slots = np.repeat(np.arange(len(slot_bits)), slot_bits)
    return slots, np.concatenate([np.arange(size) for size in slot_bits])
