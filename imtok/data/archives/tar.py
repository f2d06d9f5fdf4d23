"""Where the members of a tar archive lie: one pass over its headers, strict where Python's tarfile is lenient.

tarfile takes an archive that was cut at a block boundary for a whole one, so half a shard would be missing silently.
Here an archive must end with its end mark. Only positions are told; nothing is extracted and no link is followed.
"""

import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

BLOCK = 512
MAX_EXTENSION = 2**20  # bytes of an extended header; real ones have some hundred
CHUNK = 2**20
FILE, HARD_LINK, LINK, SPARSE = "a file", "a hard link", "a symbolic link", "a sparse file"
FOLDER, END, LINKS = "a folder", "the end mark", (HARD_LINK, LINK)
KINDS = {
    **dict.fromkeys((b"0", b"\0", b"7"), FILE),
    **dict.fromkeys((b"5", b"D"), FOLDER),  # D: GNU's, with a list of what was in it
    b"1": HARD_LINK,
    b"2": LINK,
    b"3": "a device",
    b"4": "a device",
    b"6": "a pipe",
    b"S": SPARSE,
    b"M": "the rest of a file that begins in another archive",
}
Read = Callable[[int, int], bytes]  # so many bytes, from that byte on; fewer only where the archive ends


class ShardError(ValueError):
    """Why an archive cannot be used although it can be read: to read it again does not help."""


class Member(NamedTuple):
    """What is in an archive under a name.

    Attributes:
        name: Its name.
        offset: Where its data start, in bytes.
        size: How many they are.
        kind: ``FILE`` if the data are those of a file of that name; otherwise what it is.
        target: Of a link, the name that it leads to.
    """

    name: bytes
    offset: int
    size: int
    kind: str = FILE
    target: bytes = b""


def tar_members(descriptor: int) -> Iterator[Member]:
    """What is in an open archive, without its folders, in order.

    Args:
        descriptor: An open file.

    Raises:
        ValueError: With the reason, if it is no tar archive, is torn or has a damaged header.
        OSError: If it cannot be read.
    """
    end, at = os.fstat(descriptor).st_size, 0

    def read(size: int, at: int) -> bytes:
        return os.pread(descriptor, size, at)

    while (member := read_member(read, at, end)).kind != END:
        if member.offset + member.size > end:
            raise ValueError(f"is torn inside {member.name!r}")
        if member.kind != FOLDER:
            yield member
        at = member.offset + padded(member.size)
    require_zeros(read, member.offset)


def read_member(read: Read, at: int, end: int | None = None) -> Member:
    """The member whose headers start at byte ``at``, or the end mark.

    Args:
        read: Reads the archive, each time from a byte not before the end of the time before.
        at: Where the member before ends, with its padding.
        end: The archive's size in bytes, for the message about one that is torn; None = it is not known.

    Raises:
        ValueError: With the reason, if it is no tar archive, is torn or has a damaged header.
        OSError: If it cannot be read.
    """
    said = dict[bytes, bytes]()
    while True:
        header = read(BLOCK, at)
        if not header and at == 0:
            raise ValueError("is empty")
        if len(header) < BLOCK:
            where = "ends without an end mark" if end is None else f"ends at byte {end} without an end mark"
            raise ValueError(f"is torn: it {where}" if at else "is not a tar archive")
        if header.count(0) == BLOCK:
            return Member(b"", at, 0, END)
        flag, size = header[156:157], _checked_size(header, at)
        at += BLOCK
        if flag in b"xXgLK":  # speaks of the next member; g of all that follow
            said |= _said(flag, _extension(read, at, size))
            at += padded(size)
            continue
        if flag == b"S":
            at = _after_map(read, header, at)
        return _member(header, at, size, said)


def require_zeros(read: Read, at: int) -> None:
    """Raise ValueError unless an archive holds nothing from its end mark at byte ``at`` on."""
    while rest := read(CHUNK, at):  # zeros, as long as the records of whoever wrote it
        if rest.count(0) < len(rest):
            raise ValueError("goes on after its end mark (several archives joined?); write it again as one")
        at += len(rest)


def _checked_size(header: bytes, at: int) -> int:
    """The size field of a header whose checksum is right."""
    try:
        checksum = int(header[148:156].strip(b" \0"), 8)
    except ValueError:
        checksum = -1
    if checksum != sum(header) - sum(header[148:156]) + 8 * ord(" "):
        if at == 0:
            raise ValueError("is gzip-compressed; unpack it" if header[:2] == b"\x1f\x8b" else "is not a tar archive")
        raise ValueError(f"has a damaged header at byte {at}")
    field = header[124:136]
    if field[0] == 0x80:  # GNU: binary, for files from 8 GB
        return int.from_bytes(field[1:], "big")
    try:
        size = int(field.strip(b" \0") or b"0", 8)
    except ValueError:
        size = -1
    if size < 0:
        raise ValueError(f"has a damaged size in the header at byte {at}")
    return size


def _said(flag: bytes, extension: bytes) -> dict[bytes, bytes]:
    """What an extended header says of the next member."""
    if flag in b"LK":
        return {b"path" if flag == b"L" else b"linkpath": extension.split(b"\0", 1)[0]}
    records = _pax_records(extension)
    if flag != b"g":
        return records
    meant = [key for key in records if key in (b"path", b"linkpath", b"size") or key.startswith(b"GNU.sparse.")]
    if meant:
        raise ShardError(f"has a global header that sets {meant[0].decode()} of all members; write it again without it")
    return {}


def _member(header: bytes, at: int, size: int, said: dict[bytes, bytes]) -> Member:
    """What a header and the extended headers before it say of a member whose data start at byte ``at``."""
    flag = header[156:157]
    name = said.get(b"GNU.sparse.name") or said.get(b"path") or _name(header)
    kind = KINDS.get(flag) or f"a member of type {flag.decode('latin-1')!r}"
    if flag == b"\0" and name.endswith(b"/"):  # how archives before POSIX hold folders
        kind = FOLDER
    if kind == FILE and any(key.startswith(b"GNU.sparse.") for key in said):
        kind = SPARSE
    target = said.get(b"linkpath") or header[157:257].split(b"\0", 1)[0]
    if flag in b"123456" or (flag == b"\0" and kind == FOLDER):
        size = 0  # whatever the field says
    elif b"size" in said:
        size = _decimal(said[b"size"])
    return Member(name, at, size, kind, target if kind in LINKS else b"")


def _after_map(read: Read, header: bytes, at: int) -> int:
    """Where the data of an old GNU sparse file start: after the blocks that go on with its map."""
    more = header[482]
    while more:
        block = read(BLOCK, at)
        if len(block) < BLOCK:
            raise ValueError("is torn inside the map of a sparse file")
        more, at = block[504], at + BLOCK
    return at


def _name(header: bytes) -> bytes:
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0] if header[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _extension(read: Read, at: int, size: int) -> bytes:
    """The data of an extended header."""
    if size > MAX_EXTENSION:
        raise ValueError(f"has an extended header of {size} bytes at byte {at}, more than {MAX_EXTENSION}")
    data = read(size, at)
    if len(data) < size:
        raise ValueError(f"is torn inside an extended header at byte {at}")
    return data


def _pax_records(data: bytes) -> dict[bytes, bytes]:
    """The records (``length key=value`` and a line feed) of an extended header."""
    records: dict[bytes, bytes] = {}
    while data.strip(b"\0"):
        digits, _, _ = data.partition(b" ")
        length = _decimal(digits)
        record = data[:length]
        key, equals, value = record[len(digits) + 1 : -1].partition(b"=")
        if not equals or len(record) != length or not record.endswith(b"\n"):
            raise ValueError("has a damaged extended header")
        records[key] = value
        data = data[len(record) :]
    return records


def _decimal(digits: bytes) -> int:
    if not digits.isdigit() or len(digits) > 20:
        raise ValueError("has a damaged extended header")
    return int(digits)


def padded(size: int) -> int:
    """Bytes that data of ``size`` bytes take in an archive, which consists of blocks."""
    return -(-size // BLOCK) * BLOCK
