"""Tar shards on local disks as a list of images: byte ranges, read in any order without unpacking.

webdataset reads shards from front to back only, and nobody can ask it for the sample at a position. A run resumes
exactly because the sample of each step is a function of the seed and the step, so random access stays our own.
Streams are webdataset pipelines: see :mod:`imtok.data.archives.remote`.
"""

import os
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import xxhash
from jaxtyping import Int64
from typing_extensions import override

from imtok.data.archives.index import require_same
from imtok.data.archives.listing import ShardIndex, ShardRows, index_shard, unreadable
from imtok.data.archives.members import CAPTION, Fields
from imtok.data.archives.names import Names, fold_array
from imtok.data.archives.samples import Notes, listed, remarks, setting
from imtok.data.archives.texts import NONE, LongCaptionError, most_bytes, texts_of
from imtok.data.images import MAX_BYTES, Columns, Indexable, Origins
from imtok.data.order.sampler import Blocks
from imtok.data.reading.headers import KINDS
from imtok.data.sources.apart import file_origins
from imtok.data.sources.classes import number_classes, number_like, require_named
from imtok.errors import InputError
from imtok.files import read_json

CLASSES = "classes.json"
PAUSES = (0.2, 2.0)  # seconds before the second and the third try, for file systems that hiccup
OPEN_FILES = 64
Result = TypeVar("Result")


class ShardSource(Indexable):
    """The images of tar shards, shard by shard.

    Which members make a sample and what they are is said in :mod:`imtok.data.archives.members` and
    :mod:`imtok.data.archives.texts`.
    Links lead to members of the same shard or nowhere, and nothing is ever unpickled. A ``classes.json`` beside the
    shards, as ``imtok pack`` writes it, names the classes; where classes are written as names, these are sorted and
    numbered.

    Args:
        paths: The shards.
        mixed: Mix so many shards at a time in training; None = any sample may follow any other.
        stored: An index of them; None = it is made from their headers.
        fields: Which members are read.
        classes: Names of the classes in their order, such as those of the images to train on; None = their own.
        indexes: What is in each shard, where that is known; None = it is looked at.

    Attributes:
        where: What remarks call the shards.
        notes: What was met in the shards; None where that was not looked at, since there is an index.

    Raises:
        InputError: If a shard is missing, torn or no tar archive, or holds samples that cannot be told apart, or the
            index is of others or was made with other fields.
    """

    kind = "shards"

    def __init__(
        self,
        paths: list[Path],
        mixed: int | None = None,
        stored: Columns | None = None,
        fields: Fields = Fields(),  # noqa: B008, it cannot change
        classes: Sequence[str] | None = None,
        indexes: Sequence[ShardIndex] | None = None,
    ) -> None:
        self.paths, self.fields, self.shards = paths, fields, named(paths)
        self.notes: Notes | None = None
        self._columns = self._scan(self._look(indexes)) if stored is None else self._checked(stored)
        none = np.zeros((0, 2), np.int64)
        self.captions = cast(np.ndarray, self._columns.get("captions", none))  # older indexes have none
        self.stems: Any = self._columns["names"]
        self.offsets, self.sizes, self.labels, self.shard_bytes, counts = (
            cast(np.ndarray, self._columns[name]) for name in ("offsets", "sizes", "labels", "shard_bytes", "counts")
        )
        self.remarks = tuple(_texts(self._columns.get("remarks")))
        self.ends = np.cumsum(counts)
        self.where = str(paths[0] if len(paths) == 1 else _root(paths))
        self._number(classes)
        if mixed is not None:
            self.blocks = Blocks(tuple(counts.tolist()), mixed)
        self._open: OrderedDict[int, int] = OrderedDict()

    def _look(self, indexes: Sequence[ShardIndex] | None) -> list[ShardRows]:
        """What is in the shards, each in arrays as soon as it is known: lists take 2.7 times the memory."""
        if indexes is not None:
            return [ShardRows.of(index) for index in indexes]
        with ThreadPoolExecutor(8) as pool:  # waits for the disk, mostly
            return list(pool.map(lambda path: ShardRows.of(index_shard(path, self.fields)), self.paths))

    def _scan(self, indexes: Sequence[ShardRows]) -> Columns:
        self.notes = Notes()
        for shard, index in zip(self.shards, indexes, strict=True):
            self.notes.add(index.notes)
            self.notes.empty += [] if len(index.stems) else [shard]
        self._check_one_kind(indexes)
        names, labels = _numbered([index.labels for index in indexes])
        places = np.concatenate([index.places for index in indexes])
        columns: Columns = {
            "shards": Names([os.fsencode(shard) for shard in self.shards]),
            "shard_bytes": np.array([index.bytes for index in indexes], dtype=np.int64),
            "counts": np.array([len(index.stems) for index in indexes], dtype=np.int64),
            "names": Names.joined([index.stems for index in indexes]),
            "offsets": places[:, 0].copy(),
            "sizes": places[:, 1].copy(),
            "labels": labels,
            "captions": places[:, 2:].copy(),
        }
        # These are only there where they hold something, so that other indexes stay what they were.
        more = {"classes": names, "remarks": remarks(self.notes, self.fields), "fields": _settings(self.fields)}
        return columns | {name: Names([text.encode() for text in texts]) for name, texts in more.items() if texts}

    def _check_one_kind(self, indexes: Sequence[ShardRows]) -> None:
        """Refuse classes of which some are names and some are numbers."""
        seen: dict[bool, str] = {}
        for shard, index in zip(self.shards, indexes, strict=True):
            labels = index.labels
            rows = np.flatnonzero(labels != NONE)[:1].tolist() if isinstance(labels, np.ndarray) else range(len(labels))
            for row in rows:
                label = int(labels[row]) if isinstance(labels, np.ndarray) else labels[row]
                if label != NONE:
                    seen.setdefault(isinstance(label, str), f"{shard}:{index.stems.text(row)} ({label!r})")
        if len(seen) > 1:
            raise InputError(
                f"the class of {seen[True]} is a name and that of {seen[False]} a number; write all of them in one way"
            )

    def _checked(self, stored: Columns) -> Columns:
        """The index, if the shards have its names and sizes: their headers need not be read then."""
        with ThreadPoolExecutor(8) as pool:
            sizes = np.array(list(pool.map(_size, self.paths)), dtype=np.int64)
        found: Columns = {"shards": Names([os.fsencode(shard) for shard in self.shards]), "shard_bytes": sizes}
        require_same(stored, found, "shards", "shard_bytes", "shard")
        if _texts(stored.get("fields")) != _settings(self.fields):
            raise InputError(
                "data.index was made with other settings of data.image, data.caption and data.label; delete the index "
                "file and it is made again"
            )
        names = cast(Names, stored["names"])
        if not self.fields.plain and names.hold(b".") and any(b"." in name.rpartition(b"/")[2] for name in names):
            raise InputError(
                "data.index was made when the names of samples ended at the last dot, and now they end at the first; "
                "delete the index file and it is made again"
            )
        return stored

    def _number(self, classes: Sequence[str] | None) -> None:
        """Number the classes as ``classes`` says, or as they are here."""
        own, named = _texts(self._columns.get("classes")), find_classes(self.paths[0].parent)
        self.classes = own or named
        require_named(self)
        order = classes if classes is not None else named
        if classes is not None or (own and named):
            number_like(self, list(order), self.where, names=bool(own), lacking="the list of classes lacks")

    def required(self, settings: bool = True) -> "ShardSource":
        """Itself, if it holds an image, and what ``settings`` of fields name at least once.

        Raises:
            InputError: If it does not.
        """
        notes = self.notes
        fields = "" if notes is None or not notes.found else f"; the fields are {listed(sorted(notes.found))}"
        if not len(self):
            what = KINDS if self.fields.image is None else f"data.image={self.fields.image}"
            of = f"shard {self.paths[0]} cannot be used: it" if len(self.paths) == 1 else "data.path"
            raise InputError(f"{of} holds no {what}{fields}")
        if notes is None or not settings:
            return self
        for name, text, missing in (
            ("label", self.fields.label, notes.unlabelled),
            ("caption", self.fields.caption, notes.uncaptioned),
        ):
            if text is not None and missing == notes.samples:
                raise InputError(f"data.{name}={setting(text)} is in no sample{fields}")
        return self

    @override
    def columns(self) -> Columns:
        return self._columns

    @override
    def __len__(self) -> int:
        return len(self.stems)

    @override
    def read(self, index: int) -> bytes:
        return self.start(index, MAX_BYTES)

    @override
    def start(self, index: int, count: int) -> bytes:
        shard = self._shard(index)
        offset, size = int(self.offsets[index]), int(self.sizes[index])
        if size > MAX_BYTES:
            raise OSError(f"is larger than {MAX_BYTES} bytes")
        return _three_tries(lambda: self._read(shard, offset, min(size, count)), self.paths[shard])

    @override
    def key(self, index: int) -> str:
        return f"{self.shard(index)}:{self.stems.text(index)}"

    @override
    def stem(self, index: int) -> str:
        return self.stems.text(index)

    def shard(self, index: int) -> str:
        """The shard of an image, as keys call it."""
        return self.shards[self._shard(index)]

    def path(self, index: int) -> Path:
        """The shard of an image."""
        return self.paths[self._shard(index)]

    @override
    def caption(self, index: int) -> str | None:
        return next(iter(self.texts(index)), None)

    @override
    def texts(self, index: int) -> tuple[str, ...]:
        offset, size = self.captions[index].tolist() if len(self.captions) else (0, 0)
        if not size:
            return ()
        shard, most = self._shard(index), most_bytes(self.fields.caption.field if self.fields.caption else CAPTION)
        data = _three_tries(lambda: self._read(shard, offset, min(size, most)), self.paths[shard])
        try:
            return texts_of(self.stems.raw(index), self.fields.caption, lambda _: data)
        except LongCaptionError as error:
            raise InputError(f"shard {self.paths[shard]} cannot be used: it {error}") from None

    @override
    def archives(self) -> Origins:
        return file_origins(self.paths)

    @override
    def origins(self) -> Origins:
        origins = file_origins(self.paths)[np.searchsorted(self.ends, np.arange(len(self)), side="right")]
        origins[:, 2] = self.offsets
        return origins

    @override
    def label(self, index: int) -> int:
        return int(self.labels[index])

    @override
    def record(self, index: int) -> str:
        return f"{self.key(index)}\t{self.offsets[index]}\t{self.sizes[index]}\t{self.labels[index]}"

    @override
    def records(self, indices: Int64[np.ndarray, " n"]) -> list[str]:
        shards = [self.shards[shard] for shard in np.searchsorted(self.ends, indices, side="right").tolist()]
        numbers = (column[indices].tolist() for column in (self.offsets, self.sizes, self.labels))
        rows = zip(shards, self.stems.texts(indices), *numbers, strict=True)
        return [f"{shard}:{stem}\t{offset}\t{size}\t{label}" for shard, stem, offset, size, label in rows]

    @override
    def fold(self, digest: xxhash.xxh3_128) -> None:
        digest.update("\n".join(self.shards).encode())
        for name in ("ends", "offsets", "sizes", "labels"):
            fold_array(digest, name, np.asarray(getattr(self, name), dtype=np.int64))
        self.stems.fold(digest)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}  # open files belong to a process

    def __del__(self) -> None:
        for descriptor in self.__dict__.get("_open", {}).values():
            os.close(descriptor)

    def _shard(self, index: int) -> int:
        return int(np.searchsorted(self.ends, index, side="right"))

    def _read(self, shard: int, offset: int, size: int) -> bytes:
        if shard not in self._open:
            while len(self._open) >= OPEN_FILES:
                os.close(self._open.popitem(last=False)[1])
            self._open[shard] = os.open(self.paths[shard], os.O_RDONLY)
        self._open.move_to_end(shard)
        descriptor = self._open[shard]
        try:
            if os.fstat(descriptor).st_size != self.shard_bytes[shard]:
                raise OSError("its size has changed")
            data = os.pread(descriptor, size, offset)
            if len(data) != size:
                raise OSError("fewer bytes than expected")
        except OSError:
            os.close(self._open.pop(shard))  # the next try opens the file that is there then
            raise
        return data


def _numbered(parts: Sequence[np.ndarray | list[int | str]]) -> tuple[list[str], Int64[np.ndarray, " images"]]:
    """Names of the classes, and the class of every image of all shards."""
    if all(isinstance(labels, np.ndarray) for labels in parts):
        return [], np.maximum(np.concatenate(cast("list[np.ndarray]", parts)), NONE)
    found = [label for labels in parts for label in (labels.tolist() if isinstance(labels, np.ndarray) else labels)]
    return number_classes([None if label == NONE else label for label in found], [], str)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise unreadable(path, error) from None


def _three_tries(read: Callable[[], Result], path: Path) -> Result:
    for pause in PAUSES:
        try:
            return read()
        except OSError:
            time.sleep(pause)
    try:
        return read()
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"shard {path} can no longer be read ({reason}); restore it and resume") from None


def named(paths: list[Path]) -> list[str]:
    """What keys and messages call shards: their paths below the folder that all lie in.

    Raises:
        InputError: If one is there twice.
    """
    root, seen = _root(paths), dict[str, None]()
    for path in paths:
        name = path.absolute().relative_to(root).as_posix()
        if name in seen:
            raise InputError(f"data.path names {name} twice; name each shard once")
        seen[name] = None
    return list(seen)


def find_classes(folder: Path) -> list[str]:
    """Names of the classes from a folder's ``classes.json``; none where there is no such file.

    Raises:
        InputError: If it is something else.
    """
    path = folder / CLASSES
    return read_classes(path) if path.is_file() else []


def read_classes(path: Path) -> list[str]:
    """Names of the classes in their order, from a JSON map of names to numbers from 0.

    Raises:
        InputError: If it is something else.
    """
    content = read_json(path)
    if not isinstance(content, dict) or sorted(map(str, content.values())) != sorted(map(str, range(len(content)))):
        raise InputError(f"{path} is not a map of class names to numbers from 0; mend or remove it")
    return sorted(content, key=lambda name: int(content[name]))


def _settings(fields: Fields) -> list[str]:
    """What an index must have been made with; nothing for what is so by itself."""
    texts = ["" if text is None else setting(text) for text in (fields.label, fields.caption)]
    given = [fields.image or "", *texts]
    return given if any(given) else []


def _texts(names: Names | np.ndarray | None) -> list[str]:
    return [name.decode() for name in names] if isinstance(names, Names) else []


def _root(paths: list[Path]) -> Path:
    """The folder that all shards lie in."""
    return Path(os.path.commonpath([path.absolute().parent for path in paths]))
