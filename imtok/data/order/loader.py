"""Batches of data sets, whichever kind these are of."""

from collections.abc import Iterable, Iterator
from typing import Any

from imtok import bars
from imtok.data.contract import Images
from imtok.data.order.workers import Loader
from imtok.types import Batch


def train_loader(images: Images, batches: Any, workers: int = 0) -> Loader:
    """Micro-batches of a training run; those of a list do not depend on ``workers``.

    Args:
        images: A data set in training mode.
        batches: Which samples, from which step on, as ``images.training_batches`` gives them.
        workers: Worker processes, each of which reads shards of its own of a stream; 0 = decode in this one.

    Raises:
        ValueError: If ``batches`` was made for a data set of another length.
        InputError: If a stream has fewer shards than readers.
    """
    if batches.count != images.count:
        raise ValueError(f"batches must be made for {images.count} samples, got {batches.count}")
    return images.loader(batches, workers)


def evaluation_loader(images: Images, batch_size: int, workers: int = 0, rank: int = 0, world: int = 1) -> Loader:
    """Each image exactly once over all ranks, in ascending order, without padding.

    A batch may hold fewer images than the others, or none, if some could not be decoded; a rank may get no batch.

    Args:
        images: A data set in evaluation mode. Of a stream each worker reads whole shards, so the order is that of
            the shards only where there is one.
        batch_size: Images per batch and rank.
        workers: Worker processes; 0 = decode in this one.
        rank: Index of this process; it takes every ``world``-th image.
        world: Number of processes.

    Raises:
        ValueError: If the batch size is not positive or the rank out of range.
    """
    if batch_size < 1:
        raise ValueError(f"batch size must be at least 1, got {batch_size}")
    if not 0 <= rank < world:
        raise ValueError(f"rank must be at least 0 and below the world size {world}, got {rank}")
    return images.loader(images.evaluation_batches(batch_size, rank, world), workers)


def watched(loader: Iterable[Batch], total: int | None, name: str) -> Iterator[Batch]:
    """The batches, with a progress bar on a terminal."""
    return bars.watched(loader, total, name, lambda batch: len(batch.image) + len(batch.bad))
