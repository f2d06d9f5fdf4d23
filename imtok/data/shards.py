"""Tar shards on local disks as a list of images: byte ranges, read in any order without unpacking."""

import os
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from typing_extensions import override

from imtok.data.apart import file_origins
from imtok.data.images import MAX_BYTES, Columns, Indexable, Origins
from imtok.data.index import require_same
from imtok.data.links import follow_links, require_file
from imtok.data.members import CAPTION, CLASS, DESCRIPTION, IMAGE, MAX_LABEL_BYTES, label_of, sample_part, two_images
from imtok.data.names import Names
from imtok.data.order import Blocks
from imtok.data.tar import Member, tar_members
from imtok.errors import InputError
from imtok.files import read_json

CLASSES = "classes.json"
PAUSES = (0.2, 2.0)  # seconds before the second and the third try, for file systems that hiccup
OPEN_FILES = 64
Result = TypeVar("Result")


class ShardIndex(NamedTuple):
    """The images of one shard: name without suffix, byte range, label, and byte range of the caption (0, 0: none)."""

    stems: list[bytes]
    offsets: list[int]
    sizes: list[int]
    labels: list[int]
    captions: list[tuple[int, int]]
    bytes: int


class ShardSource(Indexable):
    """The images of tar shards, shard by shard.

    Of a shard only JPEG, PNG and WebP members are images; a ``.cls`` (or an integer "label" in a ``.json``) of the same
    name gives the class, a ``.txt`` the caption. Other members, links and devices are never read, and nothing is ever
    unpickled. A ``classes.json`` beside the shards, as ``imtok pack`` writes it, names the classes.

    Args:
        paths: The shards.
        mixed: Mix so many shards at a time in training; None = any sample may follow any other.
        stored: An index of them; None = it is made from their headers.

    Raises:
        InputError: If a shard is missing, torn, no tar archive, or holds no image or one name twice, or the
            index is of others.
    """

    kind = "shards"

    def __init__(self, paths: list[Path], mixed: int | None = None, stored: Columns | None = None) -> None:
        root = Path(os.path.commonpath([path.absolute().parent for path in paths]))
        self.paths = paths
        self.shards = [path.absolute().relative_to(root).as_posix() for path in paths]
        if len(set(self.shards)) < len(self.shards):
            raise InputError(f"data.path names {_twice(self.shards)} twice; name each shard once")
        self._columns = self._scan() if stored is None else self._checked(stored)
        self.classes = find_classes(paths[0].parent)
        self.captions = np.asarray(self._columns.get("captions", np.zeros((0, 2), np.int64)))  # older indexes have none
        self.stems: Any = self._columns["names"]
        self.offsets, self.sizes, self.labels, self.shard_bytes, counts = (
            np.asarray(self._columns[name]) for name in ("offsets", "sizes", "labels", "shard_bytes", "counts")
        )
        self.ends = np.cumsum(counts)
        if mixed is not None:
            self.blocks = Blocks(tuple(counts.tolist()), mixed)
        self._open: OrderedDict[int, int] = OrderedDict()

    def _scan(self) -> Columns:
        with ThreadPoolExecutor(8) as pool:  # waits for the disk, mostly
            indexes = list(pool.map(index_shard, self.paths))
        return {
            "shards": Names([os.fsencode(shard) for shard in self.shards]),
            "shard_bytes": np.array([index.bytes for index in indexes], dtype=np.int64),
            "counts": np.array([len(index.stems) for index in indexes], dtype=np.int64),
            "names": Names([stem for index in indexes for stem in index.stems]),
            "offsets": np.array([offset for index in indexes for offset in index.offsets], dtype=np.int64),
            "sizes": np.array([size for index in indexes for size in index.sizes], dtype=np.int64),
            "labels": np.array([label for index in indexes for label in index.labels], dtype=np.int64),
            "captions": np.array([place for index in indexes for place in index.captions], dtype=np.int64),
        }

    def _checked(self, stored: Columns) -> Columns:
        """The index, if the shards have its names and sizes: their headers need not be read then."""
        with ThreadPoolExecutor(8) as pool:
            sizes = np.array(list(pool.map(_size, self.paths)), dtype=np.int64)
        found: Columns = {"shards": Names([os.fsencode(shard) for shard in self.shards]), "shard_bytes": sizes}
        require_same(stored, found, "shards", "shard_bytes", "shard")
        return stored

    @override
    def columns(self) -> Columns:
        return self._columns

    @override
    def __len__(self) -> int:
        return len(self.stems)

    @override
    def read(self, index: int) -> bytes:
        shard = self._shard(index)
        offset, size = int(self.offsets[index]), int(self.sizes[index])
        if size > MAX_BYTES:
            raise OSError(f"is larger than {MAX_BYTES} bytes")
        return _three_tries(lambda: self._read(shard, offset, size), self.paths[shard])

    @override
    def key(self, index: int) -> str:
        return f"{self.shards[self._shard(index)]}:{self.stems.text(index)}"

    @override
    def stem(self, index: int) -> str:
        return self.stems.text(index)

    def path(self, index: int) -> Path:
        """The shard of an image."""
        return self.paths[self._shard(index)]

    @override
    def caption(self, index: int) -> str | None:
        offset, size = self.captions[index].tolist() if len(self.captions) else (0, 0)
        if not size:
            return None
        shard = self._shard(index)
        data = _three_tries(lambda: self._read(shard, offset, min(size, MAX_LABEL_BYTES)), self.paths[shard])
        return data.decode("utf-8", "replace")

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


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(f"{path} cannot be read ({error.strerror}); check data.path")


def index_shard(path: Path) -> ShardIndex:
    """Find the images of one shard.

    Raises:
        InputError: As for :class:`ShardSource`.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise _unreadable(path, error) from None
    try:
        return _index(descriptor)
    except (ValueError, OSError) as error:
        raise InputError(f"shard {path} cannot be used: it {error}") from None
    finally:
        os.close(descriptor)


def _index(descriptor: int) -> ShardIndex:
    parts: dict[str, dict[bytes, Member]] = {IMAGE: {}, CLASS: {}, DESCRIPTION: {}, CAPTION: {}}
    for member in follow_links(list(tar_members(descriptor))):
        part = sample_part(member.name)
        if part is None:
            continue
        require_file(member, "which is not in it")
        if part.kind == IMAGE and part.stem in parts[IMAGE]:
            raise two_images(part.stem)
        parts[part.kind][part.stem] = member
    images = parts[IMAGE]
    if not images:
        raise ValueError("holds no JPEG, PNG or WebP")
    numbers = [
        label_of(stem, *(_start(descriptor, parts[kind].get(stem)) for kind in (CLASS, DESCRIPTION))) for stem in images
    ]
    ranges, nothing = images.values(), Member(b"", 0, 0)
    texts = [parts[CAPTION].get(stem, nothing) for stem in images]
    total = os.fstat(descriptor).st_size
    captions = [(text.offset, text.size) for text in texts]
    return ShardIndex(list(images), [m.offset for m in ranges], [m.size for m in ranges], numbers, captions, total)


def _start(descriptor: int, member: Member | None) -> bytes | None:
    """A member's first bytes: one more than a label may have."""
    return None if member is None else os.pread(descriptor, min(member.size, MAX_LABEL_BYTES + 1), member.offset)


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


def find_classes(folder: Path) -> list[str]:
    """Names of the classes from ``classes.json``, a map of names to numbers from 0; none where there is no such file.

    Raises:
        InputError: If it is something else.
    """
    path = folder / CLASSES
    if not path.is_file():
        return []
    content = read_json(path)
    if not isinstance(content, dict) or sorted(map(str, content.values())) != sorted(map(str, range(len(content)))):
        raise InputError(f"{path} is not a map of class names to numbers from 0; mend or remove it")
    return sorted(content, key=lambda name: int(content[name]))


def _twice(names: list[str]) -> str:
    seen: set[str] = set()
    return next(name for name in names if name in seen or seen.add(name))
