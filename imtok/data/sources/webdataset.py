"""Tar archives: WebDataset shards, whose files of one key make a sample, and plain archives of images.

On local disks they are read at random by byte range, so that a run resumes exactly, or as a stream on request. Remote
ones are always streamed. A run on a stream resumes at the next shard.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, Unpack

import numpy as np
from typing_extensions import override

from imtok.data.archives.members import Fields
from imtok.data.archives.names import printable
from imtok.data.archives.remote import is_remote
from imtok.data.archives.shard_paths import find_shards, find_streamed, local_path, open_local, passed_over, shard_place
from imtok.data.archives.shards import ShardSource, find_classes, read_classes
from imtok.data.archives.transport import Opener, RemoteShard
from imtok.data.base import Images, check_split
from imtok.data.images import Columns, ImageSet, Indexable, Source
from imtok.data.reading.reading import ReadingSettings
from imtok.data.reading.transforms import CentreCrop, Transform
from imtok.data.sources.classes import number_like, unplaced
from imtok.data.sources.collection import Collection
from imtok.data.stream import ImageStream, StreamPart
from imtok.errors import InputError


class WebDataset(Collection):
    """The images of tar shards.

    On a local disk they are a list of images like any other. Behind a URL, and with ``access="stream"``, they are a
    stream: see :class:`ImageStream` for what that changes. Then the held-out part is told by the hash alone, and to
    measure it all shards are read.

    Args:
        path: A folder of ``.tar`` files, one file, or a pattern: ``DIR/shard-{000..009}.tar``, ``DIR/*.tar``; or URLs
            that fsspec opens: ``https://host/shard-{000..009}.tar``, ``s3://...``. ``file:///DIR`` is the path
            ``/DIR``.
        val_path: Another such path, held out of training; None = a part of ``path`` is.
        val_fraction: See :class:`Collection`.
        access: How shards on a local disk are read: "random", by byte range, in any order; or "stream", from front to
            back as remote ones are, for disks on which only that is fast.
        shuffle_shards: Mix so many shards at a time in training, at least 1, for disks that are slow at random reads;
            None = any sample may follow any other.
        shuffle_buffer: Of a stream, mix so many images at a time in each worker in training, at least 1.
        index: See :class:`Collection`. Where there is one, the headers of the shards are not read again.
        opener: What opens a remote shard: an object that is called with a URL and returns a file to read; None =
            fsspec. In a config a class of your own, by ``_target_``.
        image: The field that is the image, such as ``jpg`` or ``input.png``; None = the only one with the suffix of an
            image, and a sample with several is refused.
        caption: The field with the caption, or a key inside of a JSON field (``json.caption``), which may hold
            a list of texts; None = ``txt``.
        label: The field with the class, its number or its name, or a key inside of a JSON field; None = ``cls``, else
            "label" in ``json`` where that is a whole number.
        classes: Names of the classes in their order, or a JSON file that maps them to numbers; None = those of the
            ``classes.json`` beside the shards, else the names found in all shards, sorted. A stream cannot look for
            names, and remote shards have no such file.
        **reading: See :class:`~imtok.data.reading.reading.Reading`.

    Raises:
        ValueError: If an argument is out of range.
        InputError: From its methods, if a shard is missing or damaged.
    """

    def __init__(
        self,
        path: str | Path,
        val_path: str | Path | None = None,
        val_fraction: float = 0.05,
        access: Literal["random", "stream"] = "random",
        shuffle_shards: int | None = None,
        shuffle_buffer: int = 256,
        index: str | Path | None = None,
        opener: Opener | None = None,
        image: str | None = None,
        caption: str | None = None,
        label: str | None = None,
        classes: Sequence[str] | str | Path | None = None,
        **reading: Unpack[ReadingSettings],
    ) -> None:
        super().__init__(local_path(path), val_path and local_path(val_path), val_fraction, index, **reading)
        if shuffle_shards is not None and shuffle_shards < 1:
            raise ValueError(f"shuffle_shards must be at least 1, got {shuffle_shards}")
        if shuffle_buffer < 1:
            raise ValueError(f"shuffle_buffer must be at least 1, got {shuffle_buffer}")
        if access not in ("random", "stream"):
            raise ValueError(f"access must be random or stream, got {access}")
        unread = {"shuffle_shards": shuffle_shards, "index": index} if access == "stream" else {}
        for name, value in unread.items():
            if value is not None:
                raise ValueError(f"{name} must be null with access=stream, which does not read it, got {value}")
        if index is not None and any(is_remote(part) for part in (self.path, self.val_path or "")):
            raise ValueError(f"index must be null for remote shards, which are read without one, got {index}")
        if classes is not None and not isinstance(classes, str | Path) and len(set(classes)) < len(classes):
            raise ValueError(f"classes must be unlike each other, got {list(classes)}")
        self.shuffle_shards, self.shuffle_buffer, self.opener = shuffle_shards, shuffle_buffer, opener
        self.access, self.fields, self.classes = access, Fields.of(image, caption, label), classes

    def _streams(self, path: str) -> bool:
        """Whether the shards of a path are read as a stream."""
        return self.access == "stream" or is_remote(path)

    @override
    def train(self, image_size: int, seed: int) -> Images:
        if not self._streams(self.path):
            return super().train(image_size, seed)
        transform = self.reading.training_crop(image_size)
        part = StreamPart("train", self.val_fraction) if self.val_path is None else StreamPart()
        stream = self._stream(self.path, transform, part, seed, training=True)
        self._leave_out(stream)
        return stream

    def _leave_out(self, stream: ImageStream) -> None:
        if self.val_path is not None and self._streams(self.val_path):
            leave_out(stream, find_streamed(self.val_path), self.path, self.val_path)

    @property
    @override
    def measures_apart(self) -> bool:
        return self._streams(self.path) or super().measures_apart

    @override
    def evaluation(self, image_size: int, split: str | None = None) -> Images:
        check_split(split or "all")
        apart = split == "val" and self.val_path is not None
        path = self.val_path if apart and self.val_path else self.path
        if self._streams(path):
            whole = apart or split in (None, "all") or self.val_path is not None
            part = StreamPart() if whole else StreamPart(split or "all", self.val_fraction)
            stream = self._stream(path, CentreCrop(image_size), part)
            if split == "train":
                self._leave_out(stream)
            return stream
        if apart and is_remote(self.path):
            return ImageSet(self.opened(path, self._classes, None), CentreCrop(image_size))
        return super().evaluation(image_size, split)

    def _stream(
        self, path: str, transform: Transform, part: StreamPart, seed: int = 0, training: bool = False
    ) -> ImageStream:
        shards = find_streamed(path)
        stream = ImageStream(shards, transform, seed, training, part, self.shuffle_buffer, self.reading)
        stream.opener = (self.opener or stream.opener) if is_remote(path) else open_local
        stream.remarks = () if is_remote(path) else passed_over(path)
        stream.fields, stream.classes = self.fields, self._streamed_classes
        return stream

    @cached_property
    def _streamed_classes(self) -> list[str] | None:
        """The classes of the images to train on, as far as they are known before these are read."""
        if self._classes is not None or is_remote(self.path):
            return self._classes
        if self.access == "stream":
            return find_classes(find_shards(self.path)[0].parent) or None
        return self._all.classes or None  # and the stream is of held-out images

    kind = "shards"

    @cached_property
    def _classes(self) -> list[str] | None:
        if isinstance(self.classes, str | Path):
            return read_classes(Path(self.classes))
        return None if self.classes is None else [str(name) for name in self.classes]

    @override
    def open(self, path: str, classes: list[str] | None, stored: Columns | None) -> Indexable:
        order = self._classes if classes is None else classes
        source = ShardSource(find_shards(path), self.shuffle_shards, stored, self.fields, order)
        source.remarks += passed_over(path)
        return source.required(settings=classes is None)


def leave_out(stream: ImageStream, held_out: list[RemoteShard], path: str, val_path: str) -> None:
    """Take shards that are held out from a stream to train on, and remark it; InputError if none is left."""
    places = {shard_place(shard.url) for shard in held_out}
    left = [shard for shard in stream.shards if shard_place(shard.url) not in places]
    if not left:
        raise InputError(
            f"data.val_path={val_path} holds every shard of data.path={path}, so that none is left to train on; give "
            "other shards, or leave val_path out to hold out data.val_fraction of path"
        )
    count = len(stream.shards) - len(left)
    if count:
        where = f"also in data.val_path={val_path}, and therefore not trained on"
        verb = "is" if count == 1 else "are"
        stream.remarks += (f"{count} of {len(stream.shards)} shards of data.path={path} {verb} {where}",)
        stream.shards = left


class Tars(Collection):
    """The images of tar archives, such as ImageNet's ``n01440764.tar``, read where they lie and never unpacked.

    Args:
        path: A folder of ``.tar`` files, one file, or a pattern: ``DIR/n*.tar``.
        labels: What an image's class is: "folder", the first folder of its name in the archive; "archive", the
            archive's name; or "member", what a ``.cls`` or ``.json`` beside it says, as in WebDataset's shards.
        val_path: See :class:`Collection`.
        val_fraction: See :class:`Collection`.
        index: See :class:`Collection`.
        **reading: See :class:`~imtok.data.reading.reading.Reading`.

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
        index: str | Path | None = None,
        **reading: Unpack[ReadingSettings],
    ) -> None:
        super().__init__(local_path(path), val_path and local_path(val_path), val_fraction, index, **reading)
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
