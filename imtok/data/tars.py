"""Plain tar archives of images, whose classes are the folders in them or the archives themselves."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from typing_extensions import override

from imtok.data.classes import number_like, unplaced
from imtok.data.collection import Collection, Crop
from imtok.data.decode import MAX_PIXELS, WHITE
from imtok.data.images import Columns, Source
from imtok.data.members import Fields
from imtok.data.names import printable
from imtok.data.shard_paths import find_shards, passed_over
from imtok.data.shards import ShardSource


class Tars(Collection):
    """The images of tar archives, such as ImageNet's ``n01440764.tar``, read where they lie and never unpacked.

    Args:
        path: A folder of ``.tar`` files, one file, or a pattern: ``DIR/n*.tar``.
        labels: What an image's class is: "folder", the first folder of its name in the archive; "archive", the
            archive's name; or "member", what a ``.cls`` or ``.json`` beside it says, as in WebDataset's shards.
        val_path: See :class:`Collection`.
        val_fraction: See :class:`Collection`.
        scale: See :class:`Collection`.
        flip: See :class:`Collection`.
        crop: See :class:`Collection`.
        decode: See :class:`Collection`.
        max_pixels: See :class:`Collection`.
        background: See :class:`Collection`.
        index: See :class:`Collection`.

    Raises:
        ValueError: If an argument is out of range.
        InputError: From its methods, if an archive is missing or damaged.
    """

    kind = "shards"

    def __init__(
        self,
        path: str | Path,
        labels: Literal["folder", "archive", "member"] = "folder",
        val_path: str | Path | None = None,
        val_fraction: float = 0.05,
        scale: Sequence[float] = (0.8, 1.0),
        flip: bool = True,
        crop: Crop = "square",
        decode: Literal["exact", "scaled"] = "exact",
        max_pixels: int = MAX_PIXELS,
        background: Sequence[int] = WHITE,
        index: str | Path | None = None,
    ) -> None:
        super().__init__(path, val_path, val_fraction, scale, flip, crop, decode, max_pixels, background, index)
        if labels not in ("folder", "archive", "member"):
            raise ValueError(f"labels must be folder, archive or member, got {labels}")
        self.labels = labels

    @override
    def open(self, path: str, classes: list[str] | None, stored: Columns | None) -> Source:
        if self.labels == "member":
            return ShardSource(find_shards(path), None, stored, Fields(), classes).required()
        source = ShardSource(find_shards(path), None, stored, Fields(plain=True)).required()
        source.remarks += passed_over(path)
        number_members(source, self.labels)
        if classes is not None:
            number_like(source, classes, path, names=True)
        return source


def number_members(source: ShardSource, labels: str) -> None:
    """Take first folders in archives ("folder") or the names of these ("archive") as the classes of their images."""
    names = [_class(source, index, labels) for index in range(len(source))]
    archives = {path.stem for path in source.paths} if labels == "archive" else set[str]()
    source.classes = sorted(archives | {name for name in names if name is not None})
    number = {name: label for label, name in enumerate(source.classes)}
    source.labels = np.array([-1 if name is None else number[name] for name in names], dtype=np.int64)
    if source.classes:
        source.remarks += unplaced(names.count(None), source.where)


def _class(source: ShardSource, index: int, labels: str) -> str | None:
    if labels == "archive":
        return source.path(index).stem
    folder, slash, _ = source.stems.raw(index).removeprefix(b"./").lstrip(b"/").partition(b"/")
    return printable(folder) if slash else None
