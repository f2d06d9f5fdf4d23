"""Tar shards behind a URL, read from front to back: no copy on a disk, and every sample once however often it breaks.

They are read by a webdataset pipeline. What it lacks is added around it: :mod:`imtok.data.archives.transport` opens a
URL and goes on where a connection breaks, and :mod:`imtok.data.archives.strict` refuses shards that webdataset would
read in part.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from braceexpand import braceexpand
from webdataset.pipeline import DataPipeline

from imtok.data.archives.encoded import EncodedImage, Samples
from imtok.data.archives.members import Fields
from imtok.data.archives.samples import grouped
from imtok.data.archives.strict import StrictShard
from imtok.data.archives.transport import Opener, RemoteShard, open_url
from imtok.errors import InputError

REMOTE = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
LOCAL = ("file", "local")
Say = Callable[[str], None]


Stage = Callable[[Iterable[EncodedImage]], Iterator[EncodedImage]]  # of a pipeline, behind those that read


def is_remote(path: str) -> bool:
    """Whether a path is a URL."""
    found = REMOTE.match(path.strip())
    return found is not None and found[1].lower() not in LOCAL


def find_remote(path: str, most: int) -> list[RemoteShard]:
    """The shards that a URL with braces names, in its order.

    Args:
        path: Such as ``https://host/shard-{000..009}.tar`` or any other URL that fsspec opens.
        most: How many it may name.

    Raises:
        InputError: If it is no list of plain URLs of one host.

    Example:
        >>> [shard.name for shard in find_remote("s3://bucket/set/train-{08..10}.tar", 99)]
        ['train-08.tar', 'train-09.tar', 'train-10.tar']
    """
    if "|" in path or "::" in path or "pipe:" in path.lower():
        raise InputError(f"data.path={path} is a command or a chain, which is never run; give plain URLs")
    urls: list[str] = []
    try:
        for url in braceexpand(path.strip()):
            urls.append(url)
            if len(urls) > most:
                raise InputError(f"data.path={path} names more than {most} shards")
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"data.path={path} has a brace that is not closed") from None
    if not all(is_remote(url) for url in urls):
        raise InputError(f"data.path={path} names local and remote shards; give one kind")
    places = [urlsplit(url) for url in urls]
    paths = [f"{place.netloc.rpartition('@')[2]}{place.path}" for place in places]
    if any("*" in name for name in paths):
        raise InputError(f"data.path={path} has a star, and a URL cannot be listed; use braces: NAME-{{000..009}}.tar")
    folder = _common_folder(paths)
    names = [name[len(folder) :] for name in paths]
    twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if twice is not None:
        raise InputError(f"data.path names {twice} twice; name each shard once")
    return [RemoteShard(url, name, number) for number, (url, name) in enumerate(zip(urls, names, strict=True))]


def read_remote(
    shards: Iterable[RemoteShard],
    opener: Opener | None = None,
    fields: Fields = Fields(),  # noqa: B008, it cannot change
    classes: Sequence[str] | None = None,
    say: Say | None = None,
    stages: Sequence[Stage] = (),
) -> Iterator[EncodedImage]:
    """The images of shards, one shard after the other, each in its order, through a pipeline of webdataset.

    The stages of this are a list of shards, webdataset's expansion of tar archives (made strict by
    :class:`imtok.data.archives.strict.StrictShard`), webdataset's grouping of files into samples, and the images of
    these. A sample's members must follow each other, as webdataset's writers leave them. Only images, labels and
    captions are kept; nothing else is looked at.

    Args:
        shards: The shards.
        opener: What opens them; None = fsspec.
        fields: Which members are read.
        classes: Names of the classes in their order, for shards in which these are written as names.
        say: Called with a sentence about what is left aside; None = nobody is told.
        stages: More stages, which the images go through in turn.

    Raises:
        InputError: From the iterator, if a shard cannot be used, or cannot be read for a reason that stays, or fails
            three times at the same place.
    """
    sources = [{"url": shard} for shard in shards]
    own = _Stages(opener or open_url, fields, classes, say)
    return iter(DataPipeline(partial(iter, sources), own.files, grouped, own.images, *stages))


class _Stages:
    """The stages of a pipeline that look at the same shard: one is open at a time, and its samples pass before it ends.

    Args:
        opener: See :func:`read_remote`.
        fields: See :func:`read_remote`.
        classes: See :func:`read_remote`.
        say: See :func:`read_remote`.
    """

    def __init__(self, opener: Opener, fields: Fields, classes: Sequence[str] | None, say: Say | None) -> None:
        self.opener, self.fields, self.classes, self.say = opener, fields, classes, say

    def files(self, sources: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """From shards to the files in them, with an empty one after each shard."""
        for source in sources:
            with closing(StrictShard(source["url"], self.opener, self.fields)) as shard:
                self.samples = Samples(shard.census, f"shard {shard.name}", self.classes)
                yield from shard.files()
                yield {}
                said = self.samples.finish()
                if self.say is not None:
                    for remark in said:
                        self.say(remark)

    def images(self, samples: Iterable[dict[str, Any]]) -> Iterator[EncodedImage]:
        """From samples to the images in them."""
        for sample in samples:
            image = self.samples.image(sample)
            if image is not None:
                yield image


def _common_folder(paths: list[str]) -> str:
    """The folders that all paths start with, with a slash at the end."""
    first, last = min(paths).split("/")[:-1], max(paths).split("/")[:-1]
    same = next((at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return "".join(f"{part}/" for part in first[:same])
