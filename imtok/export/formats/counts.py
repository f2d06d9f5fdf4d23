"""Sets of tokens as count vectors, for generators of fixed sum (TokenSet, arXiv 2503.16425).

A set of ``t`` tokens of ``v`` ids, in which an id may occur several times, is written as a vector that counts how often
each id occurs. Every vector of ``v`` whole numbers, none negative, with the sum ``t`` is one such set, and only one.
"""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, Integer
from typing_extensions import override

from imtok.errors import InputError
from imtok.export.formats.base import Format, write_arrays
from imtok.export.store import Shard, TokenStore

NO_ORDER = "none: the tokens of an image are a set"  # ``token_order`` of a store whose decoder reads a set


class Counts(Format):
    """``counts-00000.npy``, uint16 ``images views ids``, and ``labels-00000.npy``, int64, for each shard.

    The axis of views is left out where there is one view, as in the store. Images without a class have the label -1.
    """

    @override
    def check(self, store: TokenStore, folder: Path) -> None:
        manifest = store.manifest
        if manifest["token_order"] != NO_ORDER:
            raise InputError(
                f"format=counts takes tokens without an order, as those of tokenset, and {store.folder} has "
                f"{manifest['token_order']}; give format=webdataset, or export a set of an earlier version again"
            )
        if len(manifest["vocab_sizes"]) != 1 or manifest["variable_length"]:
            raise InputError(
                f"format=counts takes one id per token and as many tokens of each image, so that counts have one sum; "
                f"{store.folder} has {len(manifest['vocab_sizes'])} slots and "
                f"{'a varying number of' if manifest['variable_length'] else manifest['tokens']} tokens"
            )

    @override
    def write(self, store: TokenStore, folder: Path) -> dict[str, Any]:
        tokens, vocabulary = store.manifest["tokens"], store.manifest["vocab_sizes"][0]

        def counts(shard: Shard) -> np.ndarray:
            return to_counts(np.asarray(shard.ids)[..., 0], vocabulary).astype(np.uint16)

        write_arrays(store, folder, "counts", counts)
        notes = [f"{vocabulary} counts per image, whose sum is always {tokens}"]
        return {"counts": {"ids": vocabulary, "sum": tokens}, "notes": notes}


def to_counts(ids: Integer[np.ndarray, "*b t"], vocabulary: int) -> Int64[np.ndarray, "*b v"]:
    """How often each id stands in a set.

    Args:
        ids: Of the tokens, in any order.
        vocabulary: Number of ids.

    Raises:
        ValueError: If an id lies outside the vocabulary.

    Example:
        >>> to_counts(np.array([3, 1, 3]), vocabulary=5)
        array([0, 1, 0, 2, 0])
    """
    if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < vocabulary:
        raise ValueError(f"ids must lie in [0, {vocabulary}), got {ids.min()} to {ids.max()}")
    sets = ids.reshape(-1, ids.shape[-1]).astype(np.int64)
    places = sets + vocabulary * np.arange(len(sets))[:, None]
    return np.bincount(places.ravel(), minlength=len(sets) * vocabulary).reshape(*ids.shape[:-1], vocabulary)


def from_counts(counts: Integer[np.ndarray, "*b v"], tokens: int) -> Int64[np.ndarray, "*b t"]:
    """The ids of a set, in ascending order.

    Args:
        counts: How often each id stands in it.
        tokens: Their sum, which is the number of tokens.

    Raises:
        ValueError: If a count is negative, or the counts of a set have another sum.

    Example:
        >>> from_counts(np.array([0, 1, 0, 2, 0]), tokens=3)
        array([1, 3, 3])
    """
    sums = counts.sum(-1, dtype=np.int64)
    if (counts < 0).any() or (sums != tokens).any():
        raise ValueError(
            f"counts must be at least 0 with the sum {tokens}, got {counts.min()} at least, and sums from {sums.min()} "
            f"to {sums.max()}"
        )
    sets = counts.reshape(-1, counts.shape[-1]).astype(np.int64)
    ids = np.repeat(np.tile(np.arange(sets.shape[1]), len(sets)), sets.ravel())
    return ids.reshape(*counts.shape[:-1], tokens)
