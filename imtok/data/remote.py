"""Tar shards behind a URL, read from front to back: no copy on a disk, and every sample once however often it breaks.

webdataset's own reader is not used here: it takes a shard that was cut for a whole one, and it runs ``pipe:`` commands.
"""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from braceexpand import braceexpand

from imtok.data.images import MAX_BYTES
from imtok.data.links import require_file
from imtok.data.members import Fields
from imtok.data.names import printable
from imtok.data.samples import ITSELF, Notes, caption_in, gather, label_in, remarks
from imtok.data.tar import Forward, Member, Readable, ShardError, read_members
from imtok.data.texts import NONE, LongCaptionError, most_bytes
from imtok.data.transport import explain, open_url, plain_url
from imtok.errors import InputError

PAUSES = (0.5, 5.0)  # seconds before the second and the third try
REMOTE = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
LOCAL = ("file", "local")
Say = Callable[[str], None]

Opener = Callable[[str], Any]  # called with a URL, it returns an open file: something with read(size) and close()


class RemoteShard(NamedTuple):
    """A shard's URL, and what keys and messages call it: its path without host, user or query, which may be secret."""

    url: str
    name: str


class EncodedImage(NamedTuple):
    """An image as it lies in a shard: its name without suffix, bytes (None = too many), class or -1, and caption.

    A caption that cannot be read is empty, and ``unread`` says why: whoever wants captions refuses it.
    """

    stem: str
    data: bytes | None
    label: int
    caption: str = ""
    unread: str = ""


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
    return [RemoteShard(url, name) for url, name in zip(urls, names, strict=True)]


def read_remote(
    shard: RemoteShard,
    opener: Opener | None = None,
    fields: Fields = Fields(),  # noqa: B008, it cannot change
    classes: Sequence[str] | None = None,
    say: Say | None = None,
) -> Iterator[EncodedImage]:
    """The images of a shard in its order; a connection that breaks is opened again where it was.

    Args:
        shard: The shard.
        opener: What opens it; None = fsspec.
        fields: Which members are read.
        classes: Names of the classes in their order, for shards in which these are written as names.
        say: Called with a sentence about what is left aside; None = nobody is told.

    Raises:
        InputError: If it cannot be used, or cannot be read for a reason that stays, or fails three times without one
            more image in between.
    """
    done, failures = 0, 0
    while True:
        before, notes = done, Notes()
        try:
            with closing((opener or open_url)(shard.url)) as file:
                for place, image in enumerate(read_shard(file, fields, classes, notes)):
                    if place >= done:
                        done += 1
                        yield image
            if say is not None:
                for remark in remarks(notes, fields):
                    say(f"shard {shard.name}: {remark}")
            return
        except ShardError as error:
            raise InputError(f"shard {shard.name} cannot be used: it {error}") from None
        except Exception as error:  # every kind of storage has errors of its own
            failures = 1 if done > before else failures + 1
            reason, final = explain(error, shard.url)
            if final or failures > len(PAUSES):
                tries = "cannot be read" if final else f"could not be read in {failures} tries"
                raise InputError(
                    f"shard {shard.name} {tries} ({plain_url(shard.url)}: {reason}); see that it can be reached and is "
                    "whole, and resume"
                ) from None
            time.sleep(PAUSES[failures - 1])


def read_shard(file: Readable, fields: Fields, classes: Sequence[str] | None, notes: Notes) -> Iterator[EncodedImage]:
    """The images of an archive that is read once from front to back.

    A sample's members must follow each other, as WebDataset's writers leave them. Only images, labels and captions are
    kept; nothing else is looked at.

    Args:
        file: The archive.
        fields: Which members are read.
        classes: See :func:`read_remote`.
        notes: What is left aside is counted here.

    Raises:
        ValueError: With the reason, if it is torn or damaged.
        ShardError: With the reason, if its members are no samples that can be told apart.
    """
    read, number = Forward(file), {name: label for label, name in enumerate(classes or ())}

    def take(field: str, member: Member) -> bytes | None:
        require_file(member, "and a stream cannot follow links")
        if fields.is_image(field):
            return None if member.size > MAX_BYTES else _data(read, member, member.size)
        return _data(read, member, min(member.size, most_bytes(field)))

    def start(member: Member) -> bytes:
        return _data(read, member, min(member.size, 16))

    kinds = dict[bool, str]()  # whether classes are names, and of which sample
    for group in gather(read_members(read), fields, take, start, notes):
        label = label_in(group, fields, group.fields.get, notes)
        if label != NONE:
            kinds.setdefault(isinstance(label, str), printable(group.key))
        if len(kinds) > 1:
            raise ShardError(
                f"names the class of {kinds[True]!r} and numbers that of {kinds[False]!r}; write all of them in one way"
            )
        if classes and isinstance(label, int) and label >= len(classes):
            raise ShardError(
                f"holds {printable(group.key)!r} of class {label}, and {len(classes)} classes have names; name all "
                "classes, or mend the label"
            )
        if isinstance(label, str):
            if classes is None:
                raise ShardError(
                    f"names the class of {printable(group.key)!r} ({label!r}), and a stream cannot number names that "
                    "it does not know; give data.classes=FILE, a JSON map of names to numbers, or copy the shards here "
                    "and pack them with imtok pack"
                )
            notes.unknown += [] if label in number else [label]
            label = number.get(label, NONE)
        caption, unread = "", ""
        try:
            caption = caption_in(group, fields, group.fields.get, notes) or ""
        except LongCaptionError as error:
            unread = str(error)
        yield EncodedImage(printable(group.key), group.fields[group.image], label, caption, unread)
    notes.empty += [] if notes.samples else [ITSELF]


def _data(read: Forward, member: Member, size: int) -> bytes:
    data = read(size, member.offset)
    if len(data) < size:
        raise ValueError(f"is torn inside {member.name!r}")
    return data


def _common_folder(paths: list[str]) -> str:
    """The folders that all paths start with, with a slash at the end."""
    first, last = min(paths).split("/")[:-1], max(paths).split("/")[:-1]
    same = next((at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return "".join(f"{part}/" for part in first[:same])
