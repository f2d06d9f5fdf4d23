"""What the fields beside an image say: its class, as a number or as a name, and its caption. Nothing in them is run."""

import json
import re
from collections.abc import Callable
from typing import Any

from imtok.data.archives.members import (
    CAPTION,
    CLASS,
    DESCRIPTION,
    MAX_DESCRIPTION_BYTES,
    MAX_LABEL_BYTES,
    Fields,
    Text,
)
from imtok.data.archives.names import printable
from imtok.data.archives.tar import ShardError

UNREADABLE = "\ufffd"  # in a text, what was no UTF-8
NONE = -1  # the label of an image without a class
MAX_NAME = 200  # characters of a class's name
Read = Callable[
    [str], bytes | None
]  # a field's bytes (of a large one the first ones); None where there is no such field
_ABSENT = object()


class LongCaptionError(ShardError):
    """A caption that is longer than one may be; it is never cut."""


class DamagedTextError(ValueError):
    """The name of a field that should hold JSON and does not."""


def most_bytes(field: str) -> int:
    """How many bytes of a field are looked at: one more than a class or a description may have."""
    return (MAX_DESCRIPTION_BYTES if field.endswith(DESCRIPTION) else MAX_LABEL_BYTES) + 1


def as_text(data: bytes) -> str:
    r"""The text of a file, without a byte order mark; ``UNREADABLE`` stands for what is no UTF-8.

    Example:
        >>> as_text(b"\xef\xbb\xbfa cat"), as_text(b"caf\xe9") == f"caf{UNREADABLE}"
        ('a cat', True)
    """
    return data.decode("utf-8-sig", "replace")


def label_of(key: bytes, fields: Fields, read: Read) -> int | str | None:
    """An image's class: its index, its name, or -1 where it has none; None for a value that is not one.

    Without ``fields.label`` it is what ``cls`` says, else "label" in ``json`` if that is a whole number. Any
    other ``json`` counts as no class, since it may be there for a caption.

    Raises:
        DamagedTextError: If the ``json`` is damaged.
        ShardError: If a field that holds classes holds something else.
    """
    if fields.label is not None:
        value, name = _named(key, fields.label, read), f"{printable(key)}.{fields.label.field}"
        if value is _ABSENT or value is None:
            return NONE
        if isinstance(value, str | bytes):
            return _label(value, name)
        if type(value) is int and NONE <= value < 10**9:
            return value
        raise ShardError(f"holds {name}, whose {fields.label.key} is {_short(value)}, neither a class index nor a name")
    if (plain := read(CLASS)) is not None:
        return _label(plain, f"{printable(key)}.{CLASS}")
    if (described := read(DESCRIPTION)) is None:
        return NONE
    try:
        label = _parsed(described, "label")
    except ValueError:
        raise DamagedTextError(f"{printable(key)}.{DESCRIPTION}") from None
    if type(label) is int and NONE <= label < 10**9:
        return label
    return NONE if label is _ABSENT or label is None else None


def texts_of(key: bytes, caption: Text | None, read: Read) -> tuple[str, ...]:
    """An image's captions: the text of a field, or the text or the list of texts at a key of a JSON field.

    Raises:
        ShardError: If it is not a text, nor a list of texts.
        LongCaptionError: If it has more than 64 kB.
    """
    caption = caption or Text(CAPTION)
    value = _named(key, caption, read)
    if value is _ABSENT or value is None:
        return ()
    if isinstance(value, bytes):
        if len(value) > MAX_LABEL_BYTES:
            name = f"{printable(key)}.{caption.field}"
            raise LongCaptionError(f"holds {name}, a caption of more than {MAX_LABEL_BYTES} bytes; shorten it")
        value = as_text(value)
    texts = value if isinstance(value, list) else [value]
    for text in texts:
        if not isinstance(text, str):
            what = "not a text" if texts is not value else "not a list of texts"
            raise ShardError(f"holds {printable(key)}.{caption.field}, whose {caption.key} is {_short(value)}, {what}")
    return tuple(text for text in texts if text)


def _label(value: str | bytes, name: str) -> int | str:
    """A class's index or name as it is written."""
    text = (value if isinstance(value, str) else as_text(value)).strip()
    if text.isascii() and text.isdigit() and len(text) <= 9:
        return int(text)
    if text == str(NONE):
        return NONE
    if not text or len(text) > MAX_NAME or not text.isprintable() or UNREADABLE in text or _is_number(text):
        raise ShardError(f"holds {name}, which is neither a class index nor the name of a class ({_short(text)})")
    return text


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[-+]?(\d[\d_]*\.?\d*|\.\d+)(e[-+]?\d+)?", text, re.IGNORECASE) is not None


def _named(key: bytes, text: Text, read: Read) -> Any:
    """A field, or what is at a key inside of it; ``_ABSENT`` where there is none."""
    data = read(text.field)
    if data is None:
        return _ABSENT
    if text.key is None:
        return data
    try:
        return _parsed(data, text.key)
    except ValueError as error:
        raise ShardError(f"holds {printable(key)}.{text.field}, which {error}") from None


def _parsed(data: bytes, key: str) -> Any:
    """What is at a key of a JSON object; its dots may be its own or lead into other objects."""
    if len(data) > MAX_DESCRIPTION_BYTES:
        raise ValueError(f"has more than {MAX_DESCRIPTION_BYTES} bytes")
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        raise ValueError("is not JSON") from None
    return _inside(content, key)


def _inside(content: Any, key: str) -> Any:
    if not isinstance(content, dict):
        return _ABSENT
    if key in content:
        return content[key]
    first, _, rest = key.partition(".")
    return _inside(content.get(first), rest) if rest else _ABSENT


def _short(value: object) -> str:
    text = repr(value) if not isinstance(value, str) else repr(printable(value.encode()))
    return text if len(text) <= 30 else f"{text[:26]}...{text[-1]}"
