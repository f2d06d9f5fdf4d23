"""Millions of names in one block of memory.

A list of strings would be copied page by page into every worker, since reading one writes its reference count.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import xxhash


class Names:
    r"""A read-only list of byte strings.

    Args:
        names: The names.

    Example:
        >>> names = Names([b"cat/1.png", b"odd\n.png"])
        >>> names.raw(0), names.text(1)
        (b'cat/1.png', 'odd\\n.png')
    """

    def __init__(self, names: Sequence[bytes]) -> None:
        self._block = b"".join(names)
        self._ends = np.cumsum([0, *map(len, names)], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __iter__(self) -> Iterator[bytes]:
        return (self.raw(index) for index in range(len(self)))

    def raw(self, index: int) -> bytes:
        """The name as it is."""
        return self._block[self._ends[index] : self._ends[index + 1]]

    def text(self, index: int) -> str:
        """The name in printable characters, for logs and keys."""
        return printable(self.raw(index))


def printable(name: bytes) -> str:
    """Text with everything escaped that could break a line or an encoding."""
    text = name.decode("utf-8", "backslashreplace")
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def hash_fraction(key: str) -> float:
    """A number in [0, 1) that depends on the key alone."""
    return xxhash.xxh3_64_intdigest(key.encode()) / 2**64
