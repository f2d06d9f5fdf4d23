"""Samples to batches, in worker processes that cannot change what the batches hold."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from multiprocessing import get_start_method
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset
from typing_extensions import override

from imtok import bars
from imtok.data.images import ImageSet
from imtok.data.order.collate import collate
from imtok.data.order.position import StreamPosition
from imtok.data.order.sampler import TrainBatches
from imtok.data.order.stream_batches import StreamBatches
from imtok.data.order.workers import Guarded, GuardedStream, collated, ending, start_worker
from imtok.data.stream import ImageStream
from imtok.errors import InputError
from imtok.types import Batch


class Loader(DataLoader[Any]):
    """A DataLoader whose randomness is its own, over batches of an :class:`ImageSet` or a stream.

    An InputError of a worker arrives as a value and is raised here, so that a user reads one line and no worker's
    traceback. The workers end with the iteration, also where an error ends it.
    """

    def __init__(self, images: Dataset[Any], workers: int, collate_fn: Callable[[Any], Any], **options: Any) -> None:
        if workers < 0:
            raise ValueError(f"workers must be at least 0, got {workers}")
        stream = isinstance(images, IterableDataset)
        super().__init__(
            GuardedStream(images) if stream else Guarded(images),
            num_workers=workers,
            multiprocessing_context=_plain_context() if workers else None,
            prefetch_factor=4 if workers else None,
            worker_init_fn=start_worker,
            collate_fn=collate_fn if stream else partial(collated, collate_fn),
            # Without a generator of its own, every pass would draw from the global one and shift the model's noise.
            generator=torch.Generator().manual_seed(0),
            **options,
        )

    @override
    def __iter__(self) -> Iterator[Batch]:  # pyright: ignore[reportIncompatibleMethodOverride], torch names a private type
        with ending(super().__iter__()) as batches:
            for batch in batches:
                if isinstance(batch, InputError):
                    raise batch
                yield batch


def _plain_context() -> str | None:
    """How worker processes start where a library has changed it, as joblib does in the processes of a sweep."""
    known = get_start_method(allow_none=True)
    return "fork" if known not in (None, "fork", "spawn", "forkserver") else None


def train_loader(images: ImageSet, batches: TrainBatches, workers: int = 0) -> Loader:
    """Micro-batches of a training run; results do not depend on ``workers``.

    Args:
        images: A data set in training mode.
        batches: Which samples, from which step on.
        workers: Worker processes; 0 = decode in this one.

    Raises:
        ValueError: If ``batches`` was made for a data set of another length.
    """
    if batches.count != len(images):
        raise ValueError(f"batches must be made for {len(images)} samples, got {batches.count}")
    return list_loader(images, batches, workers)


def train_stream_loader(
    images: ImageStream,
    batch_size: int,
    batches: int,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
    position: StreamPosition | None = None,
) -> Loader:
    """Micro-batches of a training run on a stream.

    Args:
        images: A stream in training mode.
        batch_size: Images per micro-batch.
        batches: How many of them there are.
        workers: Worker processes, each of which reads shards of its own; 0 = read in this one.
        rank: Index of this process.
        world: Number of processes.
        position: Which shards not to read again; None = start at the first.

    Raises:
        InputError: If there are fewer shards than readers.
    """
    position = position or StreamPosition(len(images.shards))
    return _stream_loader(images, batch_size, workers, rank, world, batches, position)


def evaluation_loader(
    images: ImageSet | ImageStream, batch_size: int, workers: int = 0, rank: int = 0, world: int = 1
) -> Loader:
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
    if isinstance(images, ImageStream):
        return _stream_loader(images, batch_size, workers, rank, world)
    own = [(0, index) for index in range(rank, len(images), world)]
    return list_loader(images, [own[at : at + batch_size] for at in range(0, len(own), batch_size)], workers)


def spread_loader(images: ImageSet | ImageStream, number: int) -> Iterable[Batch]:
    """One batch of ``number`` images (or all, if there are fewer) spread evenly over a data set.

    Raises:
        InputError: If the images are a stream, of which the first ones are taken, and it has none.
    """
    if isinstance(images, ImageStream):
        first = next(iter(evaluation_loader(images, number)), None)
        if first is None:
            raise InputError(images.unheld)
        return [first]
    number = min(number, len(images))
    return list_loader(images, [[(0, index * len(images) // number) for index in range(number)]], 0)


def list_loader(images: ImageSet, batches: Any, workers: int) -> Loader:
    """Batches of a list of images: the places ``(epoch, index)`` of each, in order."""
    return Loader(
        images,
        workers,
        batch_sampler=batches,
        collate_fn=partial(collate, size=images.image_size, channels=images.channels),
    )


def _stream_loader(
    images: ImageStream,
    batch_size: int,
    workers: int,
    rank: int,
    world: int,
    number: int = 0,
    position: StreamPosition | None = None,
) -> Loader:
    images.check_readers(world, max(1, workers))
    batches = StreamBatches(images, batch_size, rank, world, number, position)
    return Loader(batches, workers, batch_size=None, collate_fn=_as_it_is)


def _as_it_is(batch: Batch | InputError) -> Batch | InputError:
    return batch


def watched(loader: Iterable[Batch], total: int | None, name: str) -> Iterator[Batch]:
    """The batches, with a progress bar on a terminal."""
    return bars.watched(loader, total, name, lambda batch: len(batch.image) + len(batch.bad))
