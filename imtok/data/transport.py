"""Opens a URL, and says what went wrong with it: whether to try again, and the reason without anything secret."""

import re
from http import HTTPStatus
from typing import Any, NamedTuple, cast
from urllib.parse import urlsplit

import fsspec

SILENCE = 60  # seconds without a byte after which a connection counts as broken
PASSING = (408, 425, 429)  # HTTP's 4xx codes after which another try may succeed


class UnreachableError(OSError):
    """Storage that cannot be opened here, however often it is tried."""


class Failure(NamedTuple):
    """Why a URL cannot be read, and whether another try would end in the same way."""

    reason: str
    final: bool


def open_url(url: str) -> Any:
    """A file behind a URL, by fsspec: http(s), s3 (package s3fs), gs (package gcsfs) and what else it knows."""
    options: dict[str, Any] = {}
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
    return Failure(_without_urls(text), isinstance(last, PermissionError | UnreachableError))


def _cause(error: BaseException) -> BaseException | None:
    return error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _phrase(status: int) -> str:
    return HTTPStatus(status).phrase if status in list(HTTPStatus) else ""


def _without_urls(text: str) -> str:
    return re.sub(r"\w+://\S+", lambda found: plain_url(found[0]), text)
