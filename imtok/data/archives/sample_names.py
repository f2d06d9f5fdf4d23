"""Names under which images may lie in an archive: the same for the same image, whoever unpacks it, wherever."""

import re
from collections.abc import Iterable

import xxhash

MOST = 80  # characters: with suffix they fit the name field that every reader of tar archives knows
PLAIN = re.compile(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*")
DEVICES = re.compile(r"con|prn|aux|nul|com[0-9]|lpt[0-9]", re.IGNORECASE)  # what Windows takes for no file


def sample_names(images: Iterable[tuple[str, str]]) -> list[str]:
    """A name for each image, unlike all others.

    A plain stem (ASCII letters, digits, ``_`` and ``-``, in folders or not) stays as it is. Of any other, and of one
    that was there before, all else becomes ``_``, and a hash of the key keeps it apart from its like. So no name leads
    out of a folder, is absolute, has a dot (at which WebDataset would part it) or differs from another only in case.

    Args:
        images: Of each its name where it came from, without suffix, and its key, which is unlike all others.

    Example:
        >>> sample_names([("cat/1", "cat/1.png"), ("../1", "../1.png"), ("Cat/1", "Cat/1.png")])
        ['cat/1', '___1-a332b6a65659814d', 'Cat_1-ee265ce0a3f1fde7']
    """
    seen: set[str] = set()
    names: list[str] = []
    for stem, key in images:
        name, salt = stem if _plain(stem) else "", ""
        while not name or name.lower() in seen:
            digest = xxhash.xxh3_64_hexdigest(f"{key}{salt}".encode())
            name = f"{re.sub(r'[^A-Za-z0-9_-]', '_', stem)[: MOST - 17]}-{digest}"
            salt += "+"  # only where somebody has named another image by this very hash
        seen.add(name.lower())
        names.append(name)
    return names


def _plain(stem: str) -> bool:
    parts = stem.split("/")
    return len(stem) <= MOST and PLAIN.fullmatch(stem) is not None and not any(map(DEVICES.fullmatch, parts))
