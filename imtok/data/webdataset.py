"""WebDataset shards: tar archives whose files of one name make a sample.

They are read at random by byte range, so that a run resumes exactly, which a stream of shards cannot.
"""

import re
from collections.abc import Sequence
from glob import glob, has_magic
from itertools import islice
from pathlib import Path

from braceexpand import braceexpand
from typing_extensions import override

from imtok.data.collection import Collection
from imtok.data.decode import MAX_PIXELS, WHITE
from imtok.data.images import Source
from imtok.data.shards import ShardSource
from imtok.errors import InputError

MAX_SHARDS = 1_000_000
REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


class WebDataset(Collection):
    """The images of tar shards.

    Args:
        path: A folder of ``.tar`` files, one file, or a pattern: ``DIR/shard-{000..009}.tar``, ``DIR/*.tar``.
        val_path: Another such path, held out of training; None = a part of ``path`` is.
        val_fraction: See :class:`Collection`.
        scale: See :class:`Collection`.
        flip: See :class:`Collection`.
        max_pixels: See :class:`Collection`.
        background: See :class:`Collection`.
        shuffle_shards: Mix so many shards at a time in training, at least 1, for disks that are slow at random reads;
            None = any sample may follow any other.

    Raises:
        ValueError: If an argument is out of range.
        InputError: From its methods, if a shard is missing or damaged.
    """

    def __init__(
        self,
        path: str | Path,
        val_path: str | Path | None = None,
        val_fraction: float = 0.05,
        scale: Sequence[float] = (0.8, 1.0),
        flip: bool = True,
        max_pixels: int = MAX_PIXELS,
        background: Sequence[int] = WHITE,
        shuffle_shards: int | None = None,
    ) -> None:
        super().__init__(path, val_path, val_fraction, scale, flip, max_pixels, background)
        if shuffle_shards is not None and shuffle_shards < 1:
            raise ValueError(f"shuffle_shards must be at least 1, got {shuffle_shards}")
        self.shuffle_shards = shuffle_shards

    @override
    def open(self, path: str, classes: list[str] | None) -> Source:
        return ShardSource(find_shards(path), self.shuffle_shards)


def find_shards(path: str) -> list[Path]:
    """The shards that a path or pattern names, in its order.

    Raises:
        InputError: If it names none, or something that is not a local file.

    Example:
        >>> [shard.name for shard in find_shards("train-{08..10}.tar")]
        ['train-08.tar', 'train-09.tar', 'train-10.tar']
    """
    if path.lstrip().startswith("pipe:") or "|" in path:
        raise InputError(f"data.path={path} is a command, which is never run; mount or download the shards")
    if REMOTE.search(path) or path.startswith("file:"):
        raise InputError(f"data.path={path} is not on a local disk; mount or download the shards and give their path")
    if Path(path).is_file():
        return [Path(path)]
    if Path(path).is_dir():
        shards = sorted(Path(path).glob("[!.]*.tar"))
        if not shards:
            raise InputError(
                f"data.path={path} holds no .tar file; give a folder of shards or DIR/name-{{000..009}}.tar"
            )
        return shards
    try:
        expanded = list(islice(braceexpand(path), MAX_SHARDS + 1))
    except ValueError:
        raise InputError(f"data.path={path} has a brace that is not closed") from None
    if len(expanded) > MAX_SHARDS:
        raise InputError(f"data.path={path} names more than {MAX_SHARDS} shards")
    found: list[Path] = []
    for name in expanded:
        matches = [Path(match) for match in sorted(glob(name))] if has_magic(name) else [Path(name)]  # noqa: PTH207
        if not matches:
            raise InputError(f"data.path={name} matches no file")
        found += matches
    return found
