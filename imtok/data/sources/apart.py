"""Keeps held-out images out of training, whatever their names are."""

import os
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt64

from imtok.data.archives.names import Names
from imtok.data.images import Indexable, Origins, Source, Subset
from imtok.errors import InputError

NOWHERE = 0  # the device of a file that is not there

COMPARED = 64  # files that are read to find copies


def without(source: Source, held_out: Source, path: str, val_path: str) -> Source:
    """The images of a source that are not held out.

    Files are told apart by device and number, so that a symbolic or a hard link to a file is that file.

    Args:
        source: Images to train on.
        held_out: Images to measure.
        path: Where the first are.
        val_path: Where the others are.

    Returns:
        ``source`` itself where none of its images is held out.

    Raises:
        InputError: If all of them are.
    """
    both = shared(source, held_out)
    if both.all() and len(both):
        raise InputError(
            f"data.val_path={val_path} holds every image of data.path={path}, so that none is left to train on; give "
            "other images, or leave val_path out to hold out data.val_fraction of path"
        )
    if not both.any():
        return source
    rest = Subset(source, np.flatnonzero(~both))
    count, verb = int(both.sum()), "is" if both.sum() == 1 else "are"
    where = f"also in data.val_path={val_path}, and therefore not trained on"
    rest.remarks += (f"{count} of {len(source)} images of data.path={path} {verb} {where}",)
    return rest


def shared(source: Source, other: Source) -> Bool[np.ndarray, " images"]:
    """Which images of a source are in another one too; none where their files are not known."""
    mine, yours = source.archives(), other.archives()
    if mine is not None and yours is not None and not np.isin(_rows(mine), _rows(yours)).any():
        return np.zeros(len(source), dtype=np.bool_)
    ours, theirs = source.origins(), other.origins()
    if ours is None or theirs is None:
        return np.zeros(len(source), dtype=np.bool_)
    return np.isin(_rows(ours), _rows(theirs)) & (ours[:, 0] != NOWHERE)


def copies(source: Indexable, held_out: Indexable) -> list[str]:
    """Keys of held-out files that have a copy among the training files: the same relative path and the same content.

    At most 64 held-out files, spread evenly, are compared: if files were copied, a few of them show it.

    Args:
        source: Files to train on, in the order of their names.
        held_out: Files to measure.
    """
    names, theirs = (own.columns()["names"] for own in (source, held_out))
    if not isinstance(names, Names) or not isinstance(theirs, Names):
        return []
    count = min(COMPARED, len(held_out))
    linked = shared(held_out, source)
    found = list[str]()
    for at in (number * len(held_out) // count for number in range(count)):
        place = bisect_left(range(len(names)), theirs.raw(at), key=names.raw)
        if (
            place < len(names)
            and names.raw(place) == theirs.raw(at)
            and not linked[at]
            and _alike(source, place, held_out, at)
        ):
            found.append(held_out.key(at))
    return found


def _alike(source: Indexable, place: int, held_out: Indexable, at: int) -> bool:
    """Whether two files have the same content; not if one of them cannot be read."""
    if source.columns()["sizes"][place] != held_out.columns()["sizes"][at]:  # type: ignore[index], it is an array
        return False
    try:
        return source.read(place) == held_out.read(at)
    except OSError:
        return False


def file_origins(files: Sequence[Path]) -> Origins:
    """Device and number of files, and place 0 in each."""
    found = np.zeros((len(files), 3), dtype=np.uint64)
    for at, file in enumerate(files):
        try:
            status = os.stat(file)  # noqa: PTH116
        except OSError:
            continue
        found[at, :2] = status.st_dev, status.st_ino
    return found


def _rows(origins: UInt64[np.ndarray, "images 3"]) -> np.ndarray:
    return np.ascontiguousarray(origins).view([("device", "<u8"), ("file", "<u8"), ("place", "<u8")]).ravel()
