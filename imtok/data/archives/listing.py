"""Which images a shard on a local disk holds, and where: from its headers, and the fields that hold classes."""

import os
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from imtok.data.archives.links import follow_links, require_file
from imtok.data.archives.members import CAPTION, Fields
from imtok.data.archives.names import Names
from imtok.data.archives.samples import Group, Notes, gather, label_in, texts_in, together
from imtok.data.archives.tar import Member, tar_members
from imtok.data.archives.texts import most_bytes
from imtok.errors import InputError


class ShardIndex(NamedTuple):
    """The images of one shard.

    Attributes:
        stems: Their keys.
        offsets: Where their bytes start.
        sizes: How many they are.
        labels: Their classes, by number (-1 = none) or by name.
        captions: Byte range of the field with the caption (0, 0: none).
        bytes: Size of the shard.
        notes: What else is in it.
    """

    stems: list[bytes]
    offsets: list[int]
    sizes: list[int]
    labels: list[int | str]
    captions: list[tuple[int, int]]
    bytes: int
    notes: Notes


class ShardRows(NamedTuple):
    """What :class:`ShardIndex` says of the images of a shard, in arrays.

    Attributes:
        stems: Their keys.
        places: Offset and size of each, and of its caption.
        labels: Their classes; a list where some are names.
        bytes: Size of the shard.
        notes: What else is in it.
    """

    stems: Names
    places: Int64[np.ndarray, "images 4"]
    labels: Int64[np.ndarray, " images"] | list[int | str]
    bytes: int
    notes: Notes

    @classmethod
    def of(cls, index: ShardIndex) -> "ShardRows":
        """The same as the lists of an index."""
        captions = np.array(index.captions, dtype=np.int64).reshape(-1, 2)
        places = np.column_stack([np.array(index.offsets, np.int64), np.array(index.sizes, np.int64), captions])
        plain = all(isinstance(label, int) and abs(label) < 2**63 for label in index.labels)
        labels = np.array(index.labels, dtype=np.int64) if plain else index.labels
        return cls(Names(index.stems), places, labels, index.bytes, index.notes)


def index_shard(path: Path, fields: Fields) -> ShardIndex:
    """Find the images of one shard; it may have none.

    Raises:
        InputError: If it is missing, torn, no tar archive, or its members are no samples that can be told apart.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise unreadable(path, error) from None
    try:
        return _index(descriptor, fields)
    except (ValueError, OSError) as error:
        raise InputError(f"shard {path} cannot be used: it {error}") from None
    finally:
        os.close(descriptor)


def unreadable(path: Path, error: OSError) -> InputError:
    """Why a shard cannot be opened."""
    return InputError(f"{path} cannot be read ({error.strerror}); check data.path")


def _index(descriptor: int, fields: Fields) -> ShardIndex:
    members = follow_links(list(tar_members(descriptor)))
    if fields.plain:
        members = together(members, fields)
    index = ShardIndex([], [], [], [], [], os.fstat(descriptor).st_size, Notes())
    peek = partial(_peek, descriptor)
    for group in gather(members, fields, _take, peek, index.notes):
        image = group.fields[group.image]
        index.stems.append(group.key)
        index.offsets.append(image.offset)
        index.sizes.append(image.size)
        index.labels.append(
            label_in(group, fields, lambda field, group=group: _start(descriptor, group, field), index.notes)
        )
        index.captions.append(_caption(descriptor, group, fields, index.notes))
    return index


def _take(field: str, member: Member) -> Member:
    require_file(member, "which is not in it")
    return member


def _peek(descriptor: int, member: Member) -> bytes:
    return os.pread(descriptor, min(member.size, 16), member.offset)


def _caption(descriptor: int, group: Group[Member], fields: Fields, notes: Notes) -> tuple[int, int]:
    """Where the caption is; one inside of a JSON file is looked at now, so that none is found to be no text later."""
    field, inside = (
        (CAPTION, False) if fields.caption is None else (fields.caption.field, fields.caption.key is not None)
    )
    member = group.fields.get(field)
    if inside:
        found = bool(texts_in(group, fields, lambda field: _start(descriptor, group, field), notes))
    else:
        found = member is not None and member.size > 0
        notes.uncaptioned += fields.caption is not None and not found
    return (member.offset, member.size) if member is not None and found else (0, 0)


def _start(descriptor: int, group: Group[Member], field: str) -> bytes | None:
    """A field's first bytes: one more than are looked at."""
    member = group.fields.get(field)
    return member and os.pread(descriptor, min(member.size, most_bytes(field)), member.offset)
