"""Random numbers as pure functions of (seed, epoch, index): nothing to save, nothing that workers could disturb.

Philox (Salmon et al., SC 2011) is counter-based, so that every tuple has a stream of its own that overlaps with no
other. The raw streams of numpy's bit generators are promised to stay the same across versions; the functions that numpy
builds on them are not, so what decides the data order uses raw numbers only.
"""

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What numbers are drawn for: streams of different purposes are independent."""

    ORDER = 0
    AUGMENT = 1
    REPLACE = 2
    MIX = 3
    CAPTION = 4
    SAMPLE = 5
    BUCKETS = 6
    BIJECTION = 7


def bit_stream(purpose: Purpose, seed: int, epoch: int, index: int = 0, attempt: int = 0) -> np.random.Philox:
    """The stream of 64-bit numbers that belongs to its arguments.

    Args:
        purpose: What the numbers are for.
        seed: The run's seed, in ``[0, 2**64)``.
        epoch: From 0.
        index: Position of a sample in its data set.
        attempt: From 0, below ``2**56``.

    Raises:
        ValueError: If the seed is out of range.

    Example:
        >>> first, second = (bit_stream(Purpose.AUGMENT, 0, epoch=3, index=7) for _ in range(2))
        >>> bool((first.random_raw(4) == second.random_raw(4)).all())
        True
    """
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed must be at least 0 and below 2**64, got {seed}")
    # The lowest word of the counter is Philox's own: it counts the numbers drawn.
    counter = np.array([0, index, epoch, attempt << 8 | purpose], dtype=np.uint64)
    return np.random.Philox(counter=counter, key=np.array([seed, 0], dtype=np.uint64))


def generator(purpose: Purpose, seed: int, epoch: int, index: int = 0, attempt: int = 0) -> np.random.Generator:
    """A numpy generator over :func:`bit_stream`."""
    return np.random.Generator(bit_stream(purpose, seed, epoch, index, attempt))
