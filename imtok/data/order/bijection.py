"""An order of any number of samples that takes no memory: one to one, and computed place by place.

A Feistel network over two numbers, whose product is the smallest that holds all places. A round adds to one of them a
hash of the other, keyed by seed and epoch, so every round can be undone. A result beyond the last place is put in
again until it is a place ("cycle walking": Black and Rogaway, CT-RSA 2002).
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Int64, UInt64

from imtok.data.order.randomness import Purpose, bit_stream

ROUNDS = 10  # as many as in NIST's FF1 (SP 800-38G)
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)  # of splitmix64 (Steele et al., OOPSLA 2014)


class Bijection:
    """One order of ``range(count)``: which sample is at a place, for as many places as are asked for.

    Args:
        count: Number of samples, in [1, 2**62].
        seed: The run's seed.
        epoch: From 0.
        part: Number of the part, for a data set in parts. Each part has orders of its own.
        group: Number of the group, below ``2**56``, where groups of samples have orders of their own.

    Raises:
        ValueError: If ``count`` is out of range.

    Example:
        >>> order = Bijection(10**12, seed=0, epoch=3)
        >>> bool((order[10**11 : 10**11 + 4] == order.at(10**11 + np.arange(4))).all())
        True
        >>> sorted(Bijection(5, seed=0, epoch=0)[:].tolist())
        [0, 1, 2, 3, 4]
    """

    def __init__(self, count: int, seed: int, epoch: int, part: int = 0, group: int = 0) -> None:
        if not 1 <= count <= 2**62:
            raise ValueError(f"count must lie between 1 and 2**62, got {count}")
        self.count = count
        first = math.isqrt(count - 1) + 1
        self._sides = first, -(-count // first)
        self._keys = bit_stream(Purpose.BIJECTION, seed, epoch, part, group).random_raw(ROUNDS)

    def __getitem__(self, places: slice) -> Int64[np.ndarray, " n"]:
        """The samples at a range of places, which may reach over the end, as of a list."""
        return self.at(np.arange(*places.indices(self.count), dtype=np.int64))

    def at(self, places: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """The samples at some places, each in ``[0, count)``."""
        found = self._once(places.astype(np.uint64))
        while (beyond := np.flatnonzero(found >= self.count)).size:
            found[beyond] = self._once(found[beyond])
        return found.astype(np.int64)

    def _once(self, places: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
        """One to one on the numbers below the product of both sides."""
        sides = [np.uint64(side) for side in self._sides]
        halves = list(np.divmod(places, sides[1]))
        for number, key in enumerate(self._keys):
            changed = number % 2
            added = halves[changed] + (_hash(halves[1 - changed] ^ key) * sides[changed] >> np.uint64(32))
            halves[changed] = np.where(added < sides[changed], added, added - sides[changed])
        return halves[0] * sides[1] + halves[1]


class BlockBijection:
    """One order of samples in blocks: blocks are shuffled, and the samples of ``buffer`` of them at a time are mixed.

    It keeps a few numbers for each block and none for a sample.

    Args:
        sizes: Number of samples in each block, in the order of the data set.
        buffer: How many blocks are mixed at a time, at least 1.
        seed: The run's seed.
        epoch: From 0.
        part: See :class:`Bijection`.

    Example:
        >>> sorted(BlockBijection((2, 0, 3), buffer=2, seed=0, epoch=0)[:].tolist())
        [0, 1, 2, 3, 4]
    """

    def __init__(self, sizes: Sequence[int], buffer: int, seed: int, epoch: int, part: int = 0) -> None:
        own, chosen = np.array(sizes, dtype=np.int64), Bijection(len(sizes), seed, epoch, part)[:]
        self.count, self._ends = int(own.sum()), np.cumsum(own[chosen])
        self._shifts = (np.cumsum(own) - own)[chosen] - (self._ends - own[chosen])  # from a place to its sample
        edges = np.concatenate([[0], self._ends[buffer - 1 :: buffer], self._ends[-1:]])
        self._groups = [
            (int(first), Bijection(int(end - first), seed, epoch, part, number))
            for number, (first, end) in enumerate(pairwise(edges), start=1)
            if end > first
        ]
        self._firsts = np.array([first for first, _ in self._groups], dtype=np.int64)

    def __getitem__(self, places: slice) -> Int64[np.ndarray, " n"]:
        """The samples at a range of places, which may reach over the end, as of a list."""
        asked = np.arange(*places.indices(self.count), dtype=np.int64)
        groups, mixed = np.searchsorted(self._firsts, asked, side="right") - 1, asked
        for number in np.unique(groups).tolist():
            first, order = self._groups[number]
            mixed = np.where(groups == number, first + order.at((asked - first) % order.count), mixed)
        return mixed + self._shifts[np.searchsorted(self._ends, mixed, side="right")]


def _hash(values: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    """32 bits, each of which depends on all bits of a value."""
    mixed = values
    for shift, multiplier in zip((30, 27), _MULTIPLIERS, strict=True):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(multiplier)
    return (mixed ^ (mixed >> np.uint64(31))) >> np.uint64(32)
