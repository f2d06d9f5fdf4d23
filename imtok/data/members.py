"""What the members of a WebDataset shard are: files of one name make a sample, and nothing in them is ever run."""

import json
from typing import NamedTuple

from imtok.data.headers import SUFFIXES
from imtok.data.names import printable

IMAGE, CLASS, DESCRIPTION, CAPTION = "image", ".cls", ".json", ".txt"
MAX_LABEL_BYTES = 2**16


class Part(NamedTuple):
    """Which sample a member belongs to, and whether it is its image, its class, its description or its caption."""

    stem: bytes
    kind: str


def sample_part(name: bytes) -> Part | None:
    """What a member is by its name; None for a member that nothing reads.

    Raises:
        ValueError: If the name leads out of the archive.

    Example:
        >>> sample_part(b"./cats/1.JPG"), sample_part(b"cats/1.pyd")
        (Part(stem=b'cats/1', kind='image'), None)
    """
    name = name.lstrip(b"/").removeprefix(b"./")
    if b".." in name.split(b"/"):
        raise ValueError(f"holds {printable(name)!r}, a name that leads out of it; write it again with plain names")
    stem, dot, suffix = name.rpartition(b".")
    suffix = (dot + suffix).lower()
    if not stem or stem.split(b"/")[-1].startswith(b"."):
        return None
    if suffix in SUFFIXES:
        return Part(stem, IMAGE)
    return Part(stem, suffix.decode()) if suffix in (b".cls", b".json", b".txt") else None


def two_images(stem: bytes) -> ValueError:
    """Why a shard cannot be used in which two images have one name."""
    return ValueError(f"holds two images named {printable(stem)!r}; write it again with unlike names")


def label_of(stem: bytes, plain: bytes | None, described: bytes | None) -> int:
    """The class of an image: what its ``.cls`` says, else "label" in its ``.json`` if that is an integer, else -1.

    Raises:
        ValueError: If the ``.cls`` is not a class index.
    """
    if plain is not None:
        text = plain[:MAX_LABEL_BYTES].strip()
        if not text.isdigit() or len(text) > 9:
            raise ValueError(f"holds {printable(stem)}.cls, which is not a class index ({printable(text[:20])!r})")
        return int(text)
    if described is not None and len(described) <= MAX_LABEL_BYTES:
        try:
            content = json.loads(described)
        except (ValueError, RecursionError):
            return -1  # it may be a caption's: nothing that reconstruction needs
        label = content.get("label") if isinstance(content, dict) else None
        return label if type(label) is int and 0 <= label < 10**9 else -1
    return -1
