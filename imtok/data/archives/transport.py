"""Opens a URL, and says what went wrong with it: whether to try again, and the reason without anything secret."""

import re
import time
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from typing import Any, NamedTuple, TypeVar, cast
from urllib.parse import urlsplit

import fsspec

from imtok.data.archives.tar import CHUNK, ShardError
from imtok.errors import InputError

PAUSES = (0.5, 5.0)  # seconds before the second and the third try
SILENCE = 60  # seconds without a byte after which a connection counts as broken
PASSING = (408, 425, 429)  # HTTP's 4xx codes after which another try may succeed
LAST = 1024  # bytes before the place where a connection broke that the next one must have too
Value = TypeVar("Value")
Opener = Callable[[str], Any]  # called with a URL, it returns an open file: something with read(size) and close()
ReadExactly = Callable[[int], bytes]  # the next so many bytes; fewer only at the end


class RemoteShard(NamedTuple):
    """A shard that is read from front to back.

    Attributes:
        url: Where it is.
        name: What keys and messages call it: its path without host, user or query, which may be secret.
        number: Its place in the list of shards.
        epoch: In which epoch it is read.
    """

    url: str
    name: str
    number: int = 0
    epoch: int = 0


class UnreachableError(OSError):
    """Storage that cannot be opened here, however often it is tried."""


class Failure(NamedTuple):
    """Why a URL cannot be read, and whether another try would end in the same way."""

    reason: str
    final: bool


class Connection:
    """A shard's bytes from front to back; where a connection breaks, another one goes on at the same byte.

    Args:
        shard: The shard.
        opener: What opens its URL.

    Attributes:
        at: How many bytes were taken.
    """

    def __init__(self, shard: RemoteShard, opener: Opener) -> None:
        self.shard, self.opener, self.at = shard, opener, 0
        self._file: Any = None
        self._failures, self._failed_at = 0, -1
        self._last = b""  # the last bytes that were taken

    def take(self, action: Callable[[ReadExactly], Value]) -> Value:
        """What ``action`` makes of the next bytes. If it fails it is tried again, with the same bytes.

        Args:
            action: Called with what reads the next bytes. All that it has read counts as taken when it returns.

        Raises:
            ShardError: From ``action``.
            InputError: If the bytes cannot be read for a reason that stays, or three tries fail at the same place.
        """
        while True:
            taken, last = 0, self._last

            def read(size: int) -> bytes:
                nonlocal taken, last
                data = _exactly(self._file, size)
                taken, last = taken + len(data), (last + data)[-LAST:] if len(data) < LAST else data[-LAST:]
                return data

            try:
                if self._file is None:
                    self._open()
                value = action(read)
            except ShardError:
                raise
            except Exception as error:  # every kind of storage has errors of its own
                if self.opener is open_url and "support range requests" in str(error):
                    self.close()
                    self.opener = open_forward
                    continue
                self._wait(error)
            else:
                self.at, self._last = self.at + taken, last
                return value

    def close(self) -> None:
        """Close the file, if one is open."""
        file, self._file = self._file, None
        if file is not None:
            with suppress(Exception):  # of what was broken before
                file.close()

    def _open(self) -> None:
        """Open the file at the byte where the one before it broke."""
        self._file = self.opener(self.shard.url)
        if not self.at:
            return
        begin, found = self.at - len(self._last), b""
        with suppress(Exception):  # what cannot seek, such as HTTP without ranges, says so in many ways
            self._file.seek(begin)
            found = _exactly(self._file, len(self._last))
        if len(found) < len(self._last):
            self.close()
            self._file = self.opener(self.shard.url)
            while begin and (passed := self._file.read(min(begin, CHUNK))):
                begin -= len(passed)
            found = _exactly(self._file, len(self._last))
        if len(found) == len(self._last) and found != self._last:
            raise UnreachableError("it has changed while it was read")
        if len(found) < len(self._last):
            raise ValueError(f"is torn: it ends before byte {self.at}")

    def _wait(self, error: Exception) -> None:
        """Wait before another try; InputError if there is none."""
        self.close()
        self._failures = 1 if self.at > self._failed_at else self._failures + 1
        self._failed_at = self.at
        reason, final = explain(error, self.shard.url)
        if final or self._failures > len(PAUSES):
            tries = "cannot be read" if final else f"could not be read in {self._failures} tries"
            raise InputError(
                f"shard {self.shard.name} {tries} ({plain_url(self.shard.url)}: {reason}); see that it can be reached "
                "and is whole, and resume"
            ) from None
        time.sleep(PAUSES[self._failures - 1])


def _exactly(file: Any, size: int) -> bytes:
    """The next ``size`` bytes of a file; fewer only at its end."""
    data = file.read(size)
    if len(data) == size or not data:
        return bytes(data)
    parts, missing = [data], size - len(data)
    while missing and (data := file.read(missing)):
        parts.append(data)
        missing -= len(data)
    return b"".join(parts)


def open_forward(url: str) -> Any:
    """A file behind a URL of HTTP that is asked for as a whole, for servers that do not give parts."""
    return open_url(url, block_size=0)


def open_url(url: str, **options: Any) -> Any:
    """A file behind a URL, by fsspec: http(s), s3 (package s3fs), gs (package gcsfs) and what else it knows."""
    if url.lower().startswith(("http:", "https:")):
        import aiohttp  # here, since only these need it

        # fsspec's own limit is five minutes for a whole file, which training may take longer to read
        options["client_kwargs"] = {"timeout": aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=SILENCE)}
    try:
        file = fsspec.open(url, "rb", **options)
    except (ImportError, ValueError) as error:  # no package for it, or no such protocol
        raise UnreachableError(str(error)) from None
    return cast(Any, file).open()


def plain_url(url: str) -> str:
    """A URL without user, password, query and fragment, which may be secret.

    Example:
        >>> plain_url("https://me:secret@host:81/a/0.tar?token=secret#x")
        'https://host:81/a/0.tar'
    """
    if "://" not in url:  # a path
        return url
    place = urlsplit(url)
    return f"{place.scheme}://{place.netloc.rpartition('@')[2]}{place.path}"


def explain(error: BaseException, url: str) -> Failure:
    """Why a URL failed; if errors are wrapped in each other, what the server said."""
    import aiohttp  # here, since it is only needed when something is wrong

    chain = [error]
    while (cause := _cause(chain[-1])) is not None and cause not in chain:
        chain.append(cause)
    for one in chain:
        if isinstance(one, aiohttp.TooManyRedirects):
            return Failure(f"it redirects in a loop ({len(one.history)} times)", True)
        if isinstance(one, aiohttp.NonHttpUrlRedirectClientError):
            scheme = re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", str(one))
            return Failure(
                f"it redirects to {scheme[0] if scheme else 'another kind of address'}, which is refused", True
            )
        if isinstance(one, aiohttp.InvalidURL):
            return Failure("it is not a valid address, or it redirects to an invalid one", True)
        if isinstance(one, aiohttp.ClientResponseError):
            final = 400 <= one.status < 500 and one.status not in PASSING
            return Failure(f"HTTP {one.status} {one.message or _phrase(one.status)}".strip(), final)
    last = chain[-1]
    if isinstance(last, FileNotFoundError):
        text = "HTTP 404 Not Found" if url.lower().startswith("http") else "there is no such file"
        return Failure(text, True)
    text = (str(last).strip() or type(last).__name__).splitlines()[0]
    return Failure(without_secrets(text), isinstance(last, PermissionError | UnreachableError))


def _cause(error: BaseException) -> BaseException | None:
    return error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _phrase(status: int) -> str:
    return HTTPStatus(status).phrase if status in list(HTTPStatus) else ""


def without_secrets(text: str) -> str:
    """A text whose URLs are plain ones."""
    return re.sub(r"\w+://\S+", lambda found: plain_url(found[0]), text)
