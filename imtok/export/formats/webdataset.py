"""WebDataset: tar archives of ``.npy``, ``.cls`` and ``.json`` members, the same bytes every time."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

from imtok.bars import watched
from imtok.export.formats.base import Format
from imtok.export.formats.tars import write_tars
from imtok.export.store import Shard, TokenStore


class WebDataset(Format):
    """``tokens-000000.tar``, ...: per image ``00000000.npy``, ``.cls`` (if it has a class) and ``.json`` (its key).

    Arrays are ``views tokens slots``, without the last axis where there is one slot, and int32 (int64 where a
    vocabulary needs it), since torch embeds no unsigned numbers. Where images leave tokens out, ``.keep.npy`` of shape
    ``views tokens`` says which are there. ``.txt`` is the caption, where there is one; "captions" in ``.json`` are all
    of them where there are several.

    Args:
        images_per_file: At least 1.

    Raises:
        ValueError: If ``images_per_file`` is not positive.
    """

    def __init__(self, images_per_file: int = 10_000) -> None:
        if images_per_file < 1:
            raise ValueError(f"images_per_file must be at least 1, got {images_per_file}")
        self.images_per_file = images_per_file

    @override
    def write(self, store: TokenStore, folder: Path) -> dict[str, Any]:
        dtype = np.int32 if max(store.manifest["vocab_sizes"]) <= 2**31 else np.int64
        files = write_tars(folder, _samples(store, dtype), self.images_per_file)
        notes = [f"{len(store)} images in tokens-{{000000..{files - 1:06d}}}.tar"]
        facts = {name: store.manifest[name] for name in ("vocab_sizes", "tokens", "variable_length")}
        return {**facts, "dtype": np.dtype(dtype).name, "notes": notes}


def _samples(store: TokenStore, dtype: type) -> Iterator[dict[str, bytes]]:
    places = ((shard, row) for shard in store.shards() for row in range(len(shard.keys)))
    for shard, row in watched(places, len(store), "convert", lambda _: 1):
        yield _members(shard, row, dtype)


def _members(shard: Shard, row: int, dtype: type) -> dict[str, bytes]:
    ids = np.asarray(shard.ids[row]).astype(dtype)
    members = {"npy": _npy(ids[..., 0] if ids.shape[-1] == 1 else ids)}
    if shard.keep is not None:
        members["keep.npy"] = _npy(np.asarray(shard.keep[row]))
    if shard.labels[row] >= 0:
        members["cls"] = str(int(shard.labels[row])).encode()
    if shard.captions is not None and shard.captions[row]:
        members["txt"] = shard.captions[row].encode("utf-8", "backslashreplace")
    story: dict[str, str | list[str]] = {"key": shard.keys[row]}
    if shard.texts is not None and len(shard.texts[row]) > 1:
        story["captions"] = shard.texts[row]
    members["json"] = json.dumps(story).encode()
    return members


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()
