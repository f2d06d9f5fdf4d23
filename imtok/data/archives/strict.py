"""Makes webdataset strict: it reads a shard through an object that looks at every header first.

webdataset takes a shard that was cut at a block boundary for a whole one, ends at a damaged header as if it were the
end, and passes over links without a word. What it must not see therefore never reaches it, and what it gives is
compared with what :mod:`imtok.data.archives.tar` saw in the same bytes. Its own opener, which runs ``pipe:`` commands,
and its decoders, which unpickle, are not used.
"""

import os
from collections import deque
from collections.abc import Iterator
from typing import Any, NoReturn

from webdataset.tariterators import tar_file_expander

from imtok.data.archives.links import require_file
from imtok.data.archives.members import OWN, Fields, MemberPlace
from imtok.data.archives.names import printable
from imtok.data.archives.samples import Census, Notes
from imtok.data.archives.tar import BLOCK, END, FILE, SPARSE, Member, ShardError, padded, read_member, require_zeros
from imtok.data.archives.texts import most_bytes
from imtok.data.archives.transport import Connection, Opener, ReadExactly, RemoteShard
from imtok.data.images import MAX_BYTES
from imtok.errors import InputError


class StrictShard:
    """One shard, as a file that webdataset's reader of tar archives takes.

    Args:
        shard: Where it is.
        opener: What opens it.
        fields: Which members are read.

    Attributes:
        name: What messages call it.
        census: What was found in it so far.
    """

    def __init__(self, shard: RemoteShard, opener: Opener, fields: Fields) -> None:
        self.shard, self.name, self.connection = shard, shard.name, Connection(shard, opener)
        self.census = Census[bytes | None](fields, Notes())
        self._ready, self._left, self._over = b"", 0, False  # looked at, to be handed on; the member's bytes after it
        self._member = Member(b"", 0, 0)
        self._due = deque[tuple[Member, MemberPlace | None]]()  # files that webdataset is going to ask about
        self._asked: tuple[Member, MemberPlace | None] = (self._member, None)
        self._beside = list[dict[str, Any]]()  # files that are too large to be read whole
        self._refusal: InputError | None = None

    def files(self) -> Iterator[dict[str, Any]]:
        """The files of the shard that are read: ``fname`` is a `MemberPlace`, ``data`` None where it is too large.

        Raises:
            InputError: If the shard cannot be read or used.
        """
        source = {"url": self.shard, "stream": self}
        found = tar_file_expander([source], select_files=self._select, eof_value=None)
        while True:
            try:
                file = next(found, None)
            except Exception as error:  # webdataset adds the address to errors, which may be secret
                if self._refusal is not None:
                    raise self._refusal from None
                if not self._over:
                    self._disagree(f"{type(error).__name__}: {error.args[0] if error.args else ''}")
                file = None
            yield from self._beside
            self._beside.clear()
            if file is None:
                break
            member, place = self._asked
            if len(file["data"]) != member.size:
                self._disagree(f"{len(file['data'])} bytes of {printable(member.name)!r}, which has {member.size}")
            yield {**file, "fname": place}
        if not self._over or self._due:
            self._disagree(f"an end after {printable(self._member.name)!r}")

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes for webdataset; what they are the headers of was looked at."""
        try:
            if not (self._ready or self._left or self._over):
                self._next()
            if self._ready:
                part, self._ready = self._ready[:size], self._ready[size:]
                return part
            return self._data(min(size, self._left))
        except InputError as error:
            self._refusal = error
        except ShardError as error:
            self._refusal = self._refused(error)
        raise OSError  # which webdataset hands on

    def _refused(self, error: ShardError) -> InputError:
        """Why the shard cannot be used, with its name."""
        return InputError(f"shard {self.name} cannot be used: it {error}")

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def _next(self) -> None:
        """Look at the next member."""
        begin = self.connection.at

        def headers(read: ReadExactly) -> tuple[Member, bytes]:
            taken = bytearray()

            def until(size: int, at: int) -> bytes:
                taken.extend(read(at - begin - len(taken) + size))
                return bytes(taken[at - begin :])

            member = read_member(until, begin)
            if member.kind == END:
                require_zeros(lambda size, _: read(size), member.offset + BLOCK)
            return member, bytes(taken)

        self._member, self._ready = self.connection.take(headers)
        self._over = self._member.kind == END
        if not self._over:
            self._left = padded(self._member.size)
            self._look(self._member)

    def _look(self, member: Member) -> None:
        place = self.census.place(member, lambda _: self._head(16))
        if place is not None:
            require_file(member, "and a stream cannot follow links")
            image = self.census.fields.is_image(place.field)
            most = MAX_BYTES if image else most_bytes(place.field)
            if member.size > most:
                data = None if image else self._head(most)
                self._beside.append({"fname": place, "data": data, "__url__": self.shard})
                place = None
        if member.kind in (FILE, SPARSE) and not OWN.match(member.name):
            self._due.append((member, place))

    def _head(self, most: int) -> bytes:
        """The first bytes of the present member, which webdataset gets all the same."""
        data = self._data(min(most, self._member.size))
        self._ready += data
        return data

    def _data(self, size: int) -> bytes:
        """The next bytes of the present member."""

        def data(read: ReadExactly) -> bytes:
            found = read(size)
            if len(found) < size:
                raise ValueError(f"is torn inside {self._member.name!r}")
            return found

        found = self.connection.take(data) if size else b""
        self._left -= size
        return found

    def _select(self, name: str) -> bool:
        """Whether webdataset shall read the file that it has come to."""
        if not self._due or not _alike(name, self._due[0][0].name):
            self._disagree(f"a file named {printable(os.fsencode(name))!r}")
        self._asked = self._due.popleft()
        return self._asked[1] is not None

    def _disagree(self, what: str) -> NoReturn:
        self._refusal = self._refused(
            ShardError(f"has a header that webdataset reads in another way: it finds {what}; write it again with tar")
        )
        raise self._refusal


def _alike(name: str, own: bytes) -> bool:
    """Whether tarfile's name of a member is the one in its header; it takes GNU's times of access for folders."""
    given, plain = os.fsencode(name), own.rstrip(b"/")
    return given == plain or given.endswith(b"/" + plain)
