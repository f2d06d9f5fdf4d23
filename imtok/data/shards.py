"""Tar shards on local disks as a list of images: byte ranges, read in any order without unpacking."""

import json
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from typing_extensions import override

from imtok.data.headers import SUFFIXES
from imtok.data.images import MAX_BYTES, Source
from imtok.data.names import Names, printable
from imtok.data.order import Blocks
from imtok.data.tar import Member, tar_members
from imtok.errors import InputError

PAUSES = (0.2, 2.0)  # seconds before the second and the third try, for file systems that hiccup
OPEN_FILES = 64
MAX_LABEL_BYTES = 2**16
Result = TypeVar("Result")


class ShardIndex(NamedTuple):
    """The images of one shard: name without suffix, byte range and label."""

    stems: list[bytes]
    offsets: list[int]
    sizes: list[int]
    labels: list[int]
    bytes: int


class ShardSource(Source):
    """The images of tar shards, shard by shard.

    Of a shard only JPEG, PNG and WebP members are images; a ``.cls`` (or an integer "label" in a ``.json``) of the same
    name gives the class. Other members, links and devices are never read, and nothing is ever unpickled.

    Args:
        paths: The shards.
        mixed: Mix so many shards at a time in training; None = any sample may follow any other.

    Raises:
        InputError: If a shard is missing, torn, no tar archive, or holds no image or one name twice.
    """

    def __init__(self, paths: list[Path], mixed: int | None = None) -> None:
        root = Path(os.path.commonpath([path.absolute().parent for path in paths]))
        self.paths = paths
        self.shards = [path.absolute().relative_to(root).as_posix() for path in paths]
        if len(set(self.shards)) < len(self.shards):
            raise InputError(f"data.path names {_twice(self.shards)} twice; name each shard once")
        with ThreadPoolExecutor(8) as pool:  # waits for the disk, mostly
            indexes = list(pool.map(index_shard, paths))
        self.classes: list[str] = []
        self.stems = Names([stem for index in indexes for stem in index.stems])
        self.offsets = np.array([offset for index in indexes for offset in index.offsets], dtype=np.int64)
        self.sizes = np.array([size for index in indexes for size in index.sizes], dtype=np.int64)
        self.labels = np.array([label for index in indexes for label in index.labels], dtype=np.int64)
        self.shard_bytes = [index.bytes for index in indexes]
        counts = [len(index.stems) for index in indexes]
        self.ends = np.cumsum(counts)
        if mixed is not None:
            self.blocks = Blocks(tuple(counts), mixed)
        self._open: OrderedDict[int, int] = OrderedDict()

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


def index_shard(path: Path) -> ShardIndex:
    """Find the images of one shard.

    Raises:
        InputError: As for :class:`ShardSource`.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check data.path") from None
    try:
        return _index(descriptor)
    except (ValueError, OSError) as error:
        raise InputError(f"shard {path} cannot be used: it {error}") from None
    finally:
        os.close(descriptor)


def _index(descriptor: int) -> ShardIndex:
    images: dict[bytes, Member] = {}
    labels: dict[bytes, dict[bytes, Member]] = {b".cls": {}, b".json": {}}
    for member in tar_members(descriptor):
        name = member.name.lstrip(b"/").removeprefix(b"./")
        if b".." in name.split(b"/"):
            raise ValueError(f"holds {printable(name)!r}, a name that leads out of it; write it again with plain names")
        stem, dot, suffix = name.rpartition(b".")
        suffix = (dot + suffix).lower()
        if not stem or stem.split(b"/")[-1].startswith(b"."):
            continue
        if suffix in SUFFIXES:
            if stem in images:
                raise ValueError(f"holds two images named {printable(stem)!r}; write it again with unlike names")
            images[stem] = member
        elif suffix in labels:
            labels[suffix][stem] = member
    if not images:
        raise ValueError("holds no JPEG, PNG or WebP")
    numbers = [_label(descriptor, stem, labels[b".cls"].get(stem), labels[b".json"].get(stem)) for stem in images]
    ranges = images.values()
    total = os.fstat(descriptor).st_size
    return ShardIndex(list(images), [m.offset for m in ranges], [m.size for m in ranges], numbers, total)


def _label(descriptor: int, stem: bytes, plain: Member | None, described: Member | None) -> int:
    """The class of an image: what its ``.cls`` says, else "label" in its ``.json`` if that is an integer, else -1."""
    if plain is not None:
        text = os.pread(descriptor, min(plain.size, MAX_LABEL_BYTES), plain.offset).strip()
        if not text.isdigit() or len(text) > 9:
            raise ValueError(f"holds {printable(stem)}.cls, which is not a class index ({printable(text[:20])!r})")
        return int(text)
    if described is not None and described.size <= MAX_LABEL_BYTES:
        try:
            content = json.loads(os.pread(descriptor, described.size, described.offset))
        except (ValueError, RecursionError):
            return -1  # it may be a caption's: nothing that reconstruction needs
        label = content.get("label") if isinstance(content, dict) else None
        return label if type(label) is int and 0 <= label < 10**9 else -1
    return -1


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


def _twice(names: list[str]) -> str:
    seen: set[str] = set()
    return next(name for name in names if name in seen or seen.add(name))
