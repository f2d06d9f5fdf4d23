"""Batches of a stream, made where its shards are read."""

from collections.abc import Iterator
from copy import deepcopy
from itertools import islice

from torch.utils.data import IterableDataset, get_worker_info
from typing_extensions import override

from imtok.data.order.collate import collate
from imtok.data.order.position import StreamPosition
from imtok.data.stream import ImageStream
from imtok.errors import InputError
from imtok.types import Batch


class StreamBatches(IterableDataset[Batch | InputError]):
    """One process's batches; its workers read shards of their own and take turns.

    Args:
        images: The stream.
        batch_size: Images per batch.
        rank: Index of this process.
        world: Number of processes.
        number: How many batches a training run takes; ignored in evaluation, which ends with the last image.
        position: Where training starts.
    """

    def __init__(
        self,
        images: ImageStream,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        number: int = 0,
        position: StreamPosition | None = None,
    ) -> None:
        self.images, self.batch_size, self.rank, self.world = images, batch_size, rank, world
        # The run's own goes on while this one reads, and with it who would read what.
        self.number, self.position = number, deepcopy(position) or StreamPosition(len(images.shards))

    @override
    def __iter__(self) -> Iterator[Batch | InputError]:
        about = get_worker_info()
        worker, workers = (about.id, about.num_workers) if about else (0, 1)
        reader, readers = worker * self.world + self.rank, self.world * workers  # neighbours go to different ranks
        try:
            if self.images.training:
                own = len(range(worker, self.number, workers))  # the loader asks its workers in turn
                samples = islice(self.images.endless(reader, readers, self.position), own * self.batch_size)
            else:
                samples = self.images.once(reader, readers)
            while some := list(islice(samples, self.batch_size)):
                yield collate(some, self.images.image_size, self.images.channels)
        except InputError as error:
            yield error
