"""The contract that every format keeps, and what several of them share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from imtok.bars import bar, watched
from imtok.errors import InputError
from imtok.export.sequences import Sequencing
from imtok.export.store import Shard, TokenStore


class Format(ABC):
    """Writes a token store as one consumer reads it. File names come from counters, never from keys."""

    def check(self, store: TokenStore, folder: Path) -> None:  # noqa: B027, most formats take any store
        """Refuse before anything is written.

        Args:
            store: What is to be written.
            folder: The result's path, whose name means something to some consumers.

        Raises:
            InputError: If the consumer could not read the result as it is meant.
        """

    @abstractmethod
    def write(self, store: TokenStore, folder: Path) -> dict[str, Any]:
        """Write all files into ``folder``.

        Returns:
            What the consumer must be told: vocabulary, length, offsets, ... as plain values.
        """


class Row(NamedTuple):
    """One image as sequences.

    Attributes:
        number: Of the image, from 0.
        key: Its name.
        label: Its class, -1 where there is none.
        views: A sequence per view, of full length.
        lengths: Up to where each must be stored.
        caption: Text about it, "" where there is none.
        texts: All texts about it.
    """

    number: int
    key: str
    label: int
    views: np.ndarray
    lengths: np.ndarray
    caption: str
    texts: list[str]


def shards_of(store: TokenStore) -> Iterator[Shard]:
    """The shards of a store in order, with a progress bar."""
    return watched(store.shards(), len(store), "convert", lambda shard: len(shard.keys))


def write_arrays(store: TokenStore, folder: Path, name: str, array: Callable[[Shard], np.ndarray]) -> None:
    """Write ``NAME-00000.npy``, what is made of each shard, and ``labels-00000.npy``, int64.

    Args:
        store: What to write.
        folder: Where.
        name: Of the arrays.
        array: Makes an array ``images views ...``, whose axis of views is left out where there is one view.
    """
    for number, shard in enumerate(shards_of(store)):
        made, labels = array(shard), np.asarray(shard.labels, np.int64)
        np.save(folder / f"{name}-{number:05d}.npy", made[:, 0] if store.views == 1 else made, allow_pickle=False)
        np.save(folder / f"labels-{number:05d}.npy", labels, allow_pickle=False)


def rows(store: TokenStore, sequencing: Sequencing) -> Iterator[Row]:
    """Every image of a store, in order, with a progress bar."""
    number = 0
    with bar("convert") as advance:
        for shard in store.shards():
            for start in range(0, len(shard.keys), 1024):
                part = _part(shard, sequencing, slice(start, start + 1024), number)
                advance(len(part), len(store))  # first: not every format asks whether there is one more
                yield from part
                number += len(part)


def _part(shard: Shard, sequencing: Sequencing, part: slice, number: int) -> list[Row]:
    """Some images of a shard, the first of which is the one of this number in the store."""
    keep = None if shard.keep is None else np.asarray(shard.keep[part])
    views = sequencing.join(shard.ids[part], keep)
    lengths = sequencing.lengths(keep, views.shape[:-1])
    keys, labels = shard.keys[part], shard.labels[part].tolist()
    captions = [""] * len(keys) if shard.captions is None else shard.captions[part]
    several = [[caption] * bool(caption) for caption in captions] if shard.texts is None else shard.texts[part]
    columns = zip(range(number, number + len(keys)), keys, labels, views, lengths, captions, several, strict=True)
    return [Row(*values) for values in columns]


def class_of(row: Row, unlabelled: int | None) -> int:
    """The class of an image, for consumers that must have one."""
    if row.label >= 0:
        return row.label
    if unlabelled is None:
        raise InputError(f"{row.key} has no class; give format.unlabelled=NUMBER, the class of such images")
    return unlabelled
