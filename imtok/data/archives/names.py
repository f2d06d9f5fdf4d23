"""Millions of names in one block of memory.

A list of strings would be copied page by page into every worker, since reading one writes its reference count.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import xxhash
from jaxtyping import Int64, UInt8


class Names:
    r"""A read-only list of byte strings.

    Args:
        names: The names.

    Attributes:
        block: All names, end to end.
        ends: 0, and where each name ends in it.

    Example:
        >>> names = Names([b"cat/1.png", b"odd\n.png"])
        >>> names.raw(0), names.text(1)
        (b'cat/1.png', 'odd\\n.png')
    """

    def __init__(self, names: Sequence[bytes]) -> None:
        self._put(b"".join(names), np.cumsum([0, *map(len, names)], dtype=np.int64))

    @classmethod
    def of(cls, block: UInt8[np.ndarray, " bytes"], ends: Int64[np.ndarray, " ends"]) -> "Names":
        """Names as they were stored: end to end, and where each one ends, from 0. They may lie in a mapped file."""
        names = cls([])
        names._put(block, ends)
        return names

    @classmethod
    def joined(cls, parts: Sequence["Names"]) -> "Names":
        """All names of several lists."""
        lengths = np.concatenate([np.zeros(1, np.int64), *(np.diff(part.ends) for part in parts)])
        return cls.of(np.concatenate([np.frombuffer(part.block, np.uint8) for part in parts]), np.cumsum(lengths))

    def _put(self, block: bytes | np.ndarray, ends: np.ndarray) -> None:
        self.block, self.ends, self._view = block, ends, memoryview(block)  # pyright: ignore[reportArgumentType]

    def __getstate__(self) -> dict[str, Any]:
        return {"block": self.block, "ends": self.ends}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._put(**state)

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __iter__(self) -> Iterator[bytes]:
        return (self.raw(index) for index in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Names) and self._view == other._view and np.array_equal(self.ends, other.ends)

    __hash__ = None  # type: ignore[assignment]

    def fold(self, digest: xxhash.xxh3_128) -> None:
        """Put all names into a digest."""
        fold_array(digest, "names", np.frombuffer(self.block, np.uint8))
        fold_array(digest, "name ends", self.ends)

    def raw(self, index: int) -> bytes:
        """The name as it is."""
        return bytes(self._view[self.ends[index] : self.ends[index + 1]])

    def hold(self, part: bytes) -> bool:
        """Whether a byte is in any of the names."""
        return any(part in bytes(self._view[at : at + 2**24]) for at in range(0, len(self._view), 2**24))

    def texts(self, indices: Int64[np.ndarray, " n"]) -> list[str]:
        """Some names in printable characters."""
        places = zip(self.ends[indices].tolist(), self.ends[indices + 1].tolist(), strict=True)
        return [printable(bytes(self._view[start:end])) for start, end in places]

    def text(self, index: int) -> str:
        """The name in printable characters, for logs and keys."""
        return printable(self.raw(index))


def fold_array(digest: xxhash.xxh3_128, name: str, array: np.ndarray) -> None:
    """Put a column into a digest: its name, type and shape, and its bytes."""
    digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
    digest.update(np.ascontiguousarray(array).view(np.uint8).data if array.size else b"")


def printable(name: bytes) -> str:
    """Text with everything escaped that could break a line or an encoding."""
    text = name.decode("utf-8", "backslashreplace")
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def hash_fraction(key: str) -> float:
    """A number in [0, 1) that depends on the key alone."""
    return xxhash.xxh3_64_intdigest(key.encode()) / 2**64
