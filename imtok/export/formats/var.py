"""VAR (arXiv 2404.02905) and other generators that predict scale after scale: an array of ids for each scale."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from typing_extensions import override

from imtok.errors import InputError
from imtok.export.formats.base import Format, shards_of
from imtok.export.store import TokenStore

LABELS = "labels.npy"


class VAR(Format):
    """``scale-00-1x1.npy``, ``scale-01-2x2.npy``, ...: ids of all images at a scale, and ``labels.npy``, int64.

    An array is ``images views tokens``, or ``images views tokens slots`` where there are several slots, row by row of
    the scale's map. Its type is that of the store. :class:`imtok.export.var.VARTokens` reads them.

    Args:
        unlabelled: Class of images without one; None = there must be none.
    """

    def __init__(self, unlabelled: int | None = None) -> None:
        self.unlabelled = unlabelled

    @override
    def check(self, store: TokenStore, folder: Path) -> None:
        scales_of(store)
        for shard in store.shards() if self.unlabelled is None else ():
            for key in (key for key, label in zip(shard.keys, shard.labels.tolist(), strict=True) if label < 0):
                raise InputError(f"{key} has no class; give format.unlabelled=NUMBER, the class of such images")

    @override
    def write(self, store: TokenStore, folder: Path) -> dict[str, Any]:
        scales, sizes = scales_of(store), list(store.manifest["vocab_sizes"])
        slots = (len(sizes),) if len(sizes) > 1 else ()
        dtype = next(shard.ids.dtype for shard in store.shards() if len(shard.keys))
        files = [
            open_memmap(folder / name, "w+", dtype, (len(store), store.views, side**2, *slots))
            for name, side in zip(file_names(scales), scales, strict=True)
        ]
        labels, first = np.zeros(len(store), np.int64), 0
        for shard in shards_of(store):
            rows = slice(first, first + len(shard.keys))
            start = 0
            for file, side in zip(files, scales, strict=True):
                part = shard.ids[:, :, start : start + side**2]
                file[rows] = part if slots else part[..., 0]
                start += side**2
            labels[rows] = np.where(shard.labels < 0, self.unlabelled or 0, shard.labels)
            first += len(shard.keys)
        for file in files:
            file.flush()
        np.save(folder / LABELS, labels, allow_pickle=False)
        notes = [
            f"{len(store)} images of {store.views} views, {store.manifest['tokens']} tokens at {len(scales)} scales",
            f"V={sizes[0]} patch_nums={','.join(map(str, scales))}, for VAR's build_vae_var",
        ]
        facts = {"scales": scales, "vocab_sizes": sizes, "tokens": store.manifest["tokens"], "dtype": dtype.name}
        return {**facts, "notes": notes if not slots else notes[:1]}


def scales_of(store: TokenStore) -> list[int]:
    """The side of the map at each scale.

    Raises:
        InputError: If the tokens of the store do not stand scale after scale.
    """
    if "scales" in store.manifest:
        return store.manifest["scales"]
    name = store.manifest.get("quantizer")
    if name == "MultiScale":
        raise InputError(f"{store.folder} does not say its scales, as stores of earlier versions do not; export again")
    raise InputError(
        f"format=var takes tokens that stand scale after scale, as those of quantizer=var_msvq, and {store.folder} has "
        f"those of {name}; give another format, as format=llamagen"
    )


def file_names(scales: Sequence[int]) -> list[str]:
    """The file of each scale."""
    return [f"scale-{number:02d}-{side}x{side}.npy" for number, side in enumerate(scales)]
