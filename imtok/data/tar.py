"""Where the members of a tar archive lie: one pass over its headers, strict where Python's tarfile is lenient.

tarfile takes an archive that was cut at a block boundary for a whole one, so half a shard would be missing silently.
Here an archive must end with its end mark. Only the position of regular files is told; nothing is extracted.
"""

import os
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol, runtime_checkable

BLOCK = 512
MAX_EXTENSION = 2**20  # bytes of an extended header; real ones have some hundred
CHUNK = 2**20
REGULAR = b"0\x007"
WITHOUT_DATA = b"123456"  # links, devices, folders, pipes
SPARSE = b"S"
Read = Callable[[int, int], bytes]  # so many bytes, from that byte on; fewer only where the archive ends


class Member(NamedTuple):
    """A regular file in an archive: its name and byte range."""

    name: bytes
    offset: int
    size: int


def tar_members(descriptor: int) -> Iterator[Member]:
    """The regular files of an open archive, in order.

    Args:
        descriptor: An open file.

    Raises:
        ValueError: With the reason, if it is no tar archive, is torn or has a damaged header.
        OSError: If it cannot be read.
    """
    return read_members(lambda size, at: os.pread(descriptor, size, at), os.fstat(descriptor).st_size)


@runtime_checkable
class Readable(Protocol):
    """A stream of bytes."""

    def read(self, size: int, /) -> bytes:
        """At most so many bytes; none only at the end."""
        ...


class Forward:
    """Reads a stream, which only goes forward.

    Args:
        file: The stream.
    """

    def __init__(self, file: Readable) -> None:
        self.file, self.at = file, 0

    def __call__(self, size: int, at: int) -> bytes:
        """``size`` bytes from byte ``at`` on; what lies before is passed over."""
        while self.at < at and (passed := len(self.file.read(min(at - self.at, CHUNK)))):
            self.at += passed
        data = bytearray()
        while self.at >= at and len(data) < size and (part := self.file.read(min(size - len(data), CHUNK))):
            data += part
            self.at += len(part)
        return bytes(data)


def read_members(read: Read, end: int | None = None) -> Iterator[Member]:
    """The regular files of an archive, in order.

    Args:
        read: Reads it, each time from a byte not before the end of the time before.
        end: Its size in bytes; None = it is not known, and who reads the last member must look whether it is whole.

    Raises:
        ValueError: With the reason, if it is no tar archive, is torn or has a damaged header.
        OSError: If it cannot be read.
    """
    at, name, size = 0, None, None
    while True:
        header = read(BLOCK, at)
        if not header and at == 0:
            raise ValueError("is empty")
        if len(header) < BLOCK:
            where = "ends without an end mark" if end is None else f"ends at byte {end} without an end mark"
            raise ValueError(f"is torn: it {where}" if at else "is not a tar archive")
        if header.count(0) == BLOCK:
            break
        kind, own_size = header[156:157], _checked_size(header, at)
        at += BLOCK
        if kind in b"xgLK":
            extension = _extension(read, at, own_size)
            if kind == b"L":
                name = extension.split(b"\0", 1)[0]
            elif kind == b"x":
                records = _pax_records(extension)
                name = records.get(b"path", name)
                size = _decimal(records[b"size"]) if b"size" in records else size
            at += _padded(own_size)
            continue
        if kind == SPARSE:
            raise ValueError("holds sparse files; write it again without --sparse")
        own_name, own_size = name or _name(header), own_size if size is None else size
        name = size = None
        if kind in WITHOUT_DATA:
            continue
        if end is not None and at + own_size > end:
            raise ValueError(f"is torn inside {own_name!r}")
        if kind in REGULAR:
            yield Member(own_name, at, own_size)
        at += _padded(own_size)
    if read(2**16, at + BLOCK).strip(b"\0"):
        raise ValueError("goes on after its end mark (several archives joined?); write it again as one")


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


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
