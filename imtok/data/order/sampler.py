"""In which order samples are seen: pure functions of the seed and of how many samples were consumed.

Training reads an endless stream: the epochs' orders, one after the other. A position in it is a number of
samples, so a run resumes from one integer, with any number of workers and any number of processes that divides the
global batch (the "elastic determinism" of mosaicml/streaming). Batches are always full; they may straddle epochs.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64
from torch.utils.data import Sampler
from typing_extensions import override

from imtok.data.order.bijection import Bijection, BlockBijection
from imtok.data.order.randomness import Purpose, bit_stream

PERMUTED, KEYED = "permuted", "keyed"  # kinds of order; a run says which it has, and one that says nothing is permuted
LISTED = 2**22  # samples up to which every epoch is a permutation in memory, of both kinds


@runtime_checkable
class Order(Protocol):
    """What is at each place of an epoch."""

    def __getitem__(self, places: slice, /) -> Int64[np.ndarray, " n"]: ...


class Blocks(NamedTuple):
    """Samples that lie together on a disk (a shard each), for an order that reads few of them at a time.

    Attributes:
        sizes: Number of samples in each block, in the order of the data set.
        buffer: How many blocks are mixed at a time.
    """

    sizes: tuple[int, ...]
    buffer: int

    def of(self, indices: Int64[np.ndarray, " n"]) -> "Blocks":
        """The blocks of some of the samples, in ascending order."""
        block = np.searchsorted(np.cumsum(self.sizes), indices, side="right")
        return Blocks(tuple(np.bincount(block, minlength=len(self.sizes)).tolist()), self.buffer)


def epoch_order(
    count: int, seed: int, epoch: int, blocks: Blocks | None = None, part: int = 0
) -> Int64[np.ndarray, " count"]:
    """The order of one epoch: a permutation of ``range(count)``, a function of the arguments alone.

    Args:
        count: Number of samples.
        seed: The run's seed.
        epoch: From 0.
        blocks: None = every permutation is as likely. Otherwise blocks are shuffled, and the samples of ``buffer``
            blocks at a time are shuffled among themselves.
        part: Number of the part, for a data set in parts. Each part has orders of its own.

    Raises:
        ValueError: If ``count`` is not positive or not the sum of the blocks.

    Example:
        >>> sorted(epoch_order(5, seed=0, epoch=2).tolist())
        [0, 1, 2, 3, 4]
    """
    return _epoch_order(count, seed, epoch, blocks, part)


@lru_cache(maxsize=2)  # a batch that straddles epochs needs two
def _epoch_order(count: int, seed: int, epoch: int, blocks: Blocks | None, part: int) -> np.ndarray:
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    stream = bit_stream(Purpose.ORDER, seed, epoch, part)
    if blocks is None:
        order = _permutation(stream, count)
    else:
        _check_blocks(blocks, count)
        ends = np.cumsum(blocks.sizes).tolist()
        chosen = _permutation(stream, len(blocks.sizes))
        parts = [np.arange(ends[block] - blocks.sizes[block], ends[block]) for block in chosen]
        mixed = [np.concatenate(parts[at : at + blocks.buffer]) for at in range(0, len(parts), blocks.buffer)]
        order = np.concatenate([part[_permutation(stream, len(part))] for part in mixed])
    order.flags.writeable = False  # callers share it
    return order


def _check_blocks(blocks: Blocks, count: int) -> None:
    if sum(blocks.sizes) != count or blocks.buffer < 1:
        raise ValueError(f"blocks must hold {count} samples in all and mix at least 1, got {blocks}")


@lru_cache(maxsize=2)
def order_of(kind: str, count: int, seed: int, epoch: int, blocks: Blocks | None = None) -> Order:
    """The order of one epoch, of a kind.

    Args:
        kind: ``permuted``, as of :func:`epoch_order`; or ``keyed``, which for more than 4,194,304 samples is computed
            place by place and takes no memory.
        count: Number of samples.
        seed: The run's seed.
        epoch: From 0.
        blocks: As for :func:`epoch_order`.

    Raises:
        ValueError: If there is no such kind, or ``count`` is not positive or not the sum of the blocks.
    """
    if kind not in (PERMUTED, KEYED):
        raise ValueError(f"the order must be {PERMUTED} or {KEYED}, got {kind}")
    if kind == PERMUTED or count <= LISTED:
        return epoch_order(count, seed, epoch, blocks)
    if blocks is None:
        return Bijection(count, seed, epoch)
    _check_blocks(blocks, count)
    return BlockBijection(blocks.sizes, blocks.buffer, seed, epoch)


def stream(
    count: int, seed: int, position: int, number: int, blocks: Blocks | None = None, kind: str = PERMUTED
) -> list[tuple[int, int]]:
    """The next ``number`` samples of the training stream, as ``(epoch, index)``.

    Args:
        count: Samples in an epoch.
        seed: The run's seed.
        position: Samples consumed so far.
        number: How many to return.
        blocks: As for :func:`epoch_order`.
        kind: As for :func:`order_of`.

    Example:
        >>> [epoch for epoch, _ in stream(count=3, seed=0, position=2, number=5)]
        [0, 1, 1, 1, 2]
    """
    return taken(count, position, number, lambda epoch: order_of(kind, count, seed, epoch, blocks))


def taken(count: int, position: int, number: int, order: Callable[[int], Order]) -> list[tuple[int, int]]:
    """The next ``number`` samples, as ``(epoch, index)``, where ``order`` gives the order of each epoch."""
    samples: list[tuple[int, int]] = []
    while number > 0:
        epoch, at = divmod(position, count)
        part = order(epoch)[at : at + number].tolist()
        samples.extend((epoch, index) for index in part)
        position, number = position + len(part), number - len(part)
    return samples


def places(most: int, count: int) -> Int64[np.ndarray, " n"]:
    """At most ``most`` positions among ``count``, evenly spread and in ascending order.

    Example:
        >>> places(3, 10), places(3, 2)
        (array([0, 3, 6]), array([0, 1]))
    """
    most = min(most, count)
    return np.arange(most, dtype=np.int64) * count // max(most, 1)


class Steps(NamedTuple):
    """Some steps of a run, as one of its processes reads them; see :class:`TrainBatches`."""

    seed: int
    global_batch: int
    accumulate: int = 1
    rank: int = 0
    world: int = 1
    start_step: int = 0
    total_steps: int = 1
    order: str = PERMUTED


class TrainBatches(Sampler[list[tuple[int, int]]]):
    """One rank's micro-batches for the steps that are left, as lists of ``(epoch, index)``.

    A rank takes every ``world``-th sample of a global batch and cuts them into ``accumulate`` equal micro-batches, so
    the global batch of a step is the same set of samples for every world size.

    Args:
        count: Samples in the data set, at least 1.
        seed: The run's seed.
        global_batch: Samples per optimiser step, over all ranks and micro-batches.
        accumulate: Micro-batches per optimiser step.
        rank: Index of this process.
        world: Number of processes.
        start_step: Optimiser steps taken so far.
        total_steps: Optimiser steps of the whole run.
        order: The kind of order, as for :func:`order_of`.
        blocks: As for :func:`epoch_order`.

    Raises:
        ValueError: If ``world * accumulate`` does not divide ``global_batch``, or a number is out of range.

    Example:
        >>> whole = TrainBatches(count=10, seed=0, global_batch=4, total_steps=3)
        >>> resumed = TrainBatches(count=10, seed=0, global_batch=4, start_step=2, total_steps=3)
        >>> list(whole)[2:] == list(resumed), len(whole), len(resumed)
        (True, 3, 1)
    """

    def __init__(
        self,
        count: int,
        seed: int,
        global_batch: int,
        accumulate: int = 1,
        rank: int = 0,
        world: int = 1,
        start_step: int = 0,
        total_steps: int = 1,
        order: str = PERMUTED,
        blocks: Blocks | None = None,
    ) -> None:
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}")
        if not 0 <= rank < world:
            raise ValueError(f"rank must be at least 0 and below the world size {world}, got {rank}")
        if accumulate < 1 or global_batch < 1 or global_batch % (world * accumulate):
            raise ValueError(
                "batch size must be divisible by processes times accumulated micro-batches "
                f"({world} x {accumulate}), got {global_batch}"
            )
        if not 0 <= start_step <= total_steps:
            raise ValueError(f"start step must lie in [0, {total_steps}], got {start_step}")
        self.count, self.seed, self.blocks = count, seed, blocks
        self.global_batch, self.accumulate = global_batch, accumulate
        self.rank, self.world = rank, world
        self.start_step, self.total_steps, self.order = start_step, total_steps, order

    @override
    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        size = self.global_batch // (self.world * self.accumulate)
        for step in range(self.start_step, self.total_steps):
            own = self.whole(step)[self.rank :: self.world]
            for at in range(0, len(own), size):
                yield own[at : at + size]

    def whole(self, step: int) -> list[tuple[int, int]]:
        """The global batch of a step."""
        return stream(self.count, self.seed, step * self.global_batch, self.global_batch, self.blocks, self.order)

    def __len__(self) -> int:
        return (self.total_steps - self.start_step) * self.accumulate


def _permutation(stream: np.random.Philox, count: int) -> np.ndarray:
    """A uniform permutation by sorting raw 64-bit numbers, so that no version of numpy can change it."""
    return np.argsort(stream.random_raw(count), kind="stable")
