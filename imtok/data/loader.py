"""Samples to batches, in worker processes that cannot change what the batches hold."""

import signal
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader
from typing_extensions import override

from imtok.data.images import ImageSet, Sample
from imtok.data.order import TrainBatches
from imtok.errors import InputError
from imtok.types import Batch


class Loader(DataLoader[Any]):
    """A DataLoader over batches of an :class:`ImageSet`.

    Errors of workers arrive as values and are raised here, so that a user reads one line and no worker's traceback.
    """

    def __init__(self, images: ImageSet, batches: Any, workers: int) -> None:
        if workers < 0:
            raise ValueError(f"workers must be at least 0, got {workers}")
        super().__init__(
            images,
            batch_sampler=batches,
            num_workers=workers,
            collate_fn=partial(_collate, size=images.image_size),
            prefetch_factor=4 if workers else None,
            worker_init_fn=_start_worker,
            # Without a generator of its own, every pass would draw from the global one and shift the model's noise.
            generator=torch.Generator().manual_seed(0),
        )

    @override
    def __iter__(self) -> Iterator[Batch]:  # pyright: ignore[reportIncompatibleMethodOverride], torch names a private type
        for batch in super().__iter__():
            if isinstance(batch, InputError):
                raise batch
            yield batch


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
    return Loader(images, batches, workers)


def evaluation_loader(images: ImageSet, batch_size: int, workers: int = 0, rank: int = 0, world: int = 1) -> Loader:
    """Each image exactly once over all ranks, in ascending order, without padding.

    A batch may hold fewer images than the others, or none, if some could not be decoded; a rank may get no batch.

    Args:
        images: A data set in evaluation mode.
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
    own = [(0, index) for index in range(rank, len(images), world)]
    return Loader(images, [own[at : at + batch_size] for at in range(0, len(own), batch_size)], workers)


def _start_worker(_worker: int) -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process, which ends its workers
    warnings.filterwarnings("ignore", module="PIL")  # they tell of damaged metadata and name no file


def spread_loader(images: ImageSet, number: int) -> Loader:
    """One batch of ``number`` images (or all, if there are fewer) spread evenly over a data set."""
    number = min(number, len(images))
    return Loader(images, [[(0, index * len(images) // number) for index in range(number)]], 0)


def _collate(samples: list[Sample], size: int) -> Batch | InputError:
    for sample in samples:
        if sample.error is not None:
            return InputError(sample.error)
    images = [sample.image for sample in samples if sample.image is not None]
    good = [sample for sample in samples if sample.image is not None]
    return Batch(
        image=torch.stack(images) if images else torch.empty(0, 3, size, size, dtype=torch.uint8),
        label=torch.tensor([sample.label for sample in good], dtype=torch.int64),
        index=torch.tensor([sample.index for sample in good], dtype=torch.int64),
        key=[sample.key for sample in good],
        bad=[reason for sample in samples for reason in sample.bad],
    )
