"""Images for an export, shard by shard, so that several processes can share them and a killed one can go on."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from copy import copy
from dataclasses import replace
from typing import Any

from typing_extensions import override

from imtok.data.base import Images
from imtok.data.images import ImageSet
from imtok.data.order.loader import evaluation_loader, watched
from imtok.types import Batch

Wanted = Callable[[int], bool]


class Feed(ABC):
    """Images in a fixed order, cut into shards; batches never reach over the end of a shard.

    So the batches that a shard is encoded in, and with them its ids to the last bit, do not depend on how many
    processes there are or where one of them started.

    Attributes:
        shard_size: Images per shard.
        batch_size: Images per batch at most; None = as they come.
        images: How many there are, unreadable ones included; None = that shows in the end.
        side: Of the squares that the images are, in pixels; None = as they come.
        classes: Names of the classes, by label.
        about: What must be the same for a rest of the shards to fit those that are there.
    """

    shard_size: int
    batch_size: int | None = None
    images: int | None = None
    side: int | None = None
    classes: list[str]
    about: dict[str, Any]

    @abstractmethod
    def batches(self, wanted: Wanted) -> Iterator[tuple[int, Batch]]:
        """Every batch of every wanted shard, with the shard's number, in order.

        Args:
            wanted: Asked once for each shard, when its turn comes.
        """

    @property
    @abstractmethod
    def shards(self) -> int:
        """Number of shards; of a sequence only known once ``batches`` has come to its end."""


class ListFeed(Feed):
    """A list of images: only the wanted shards are read.

    Args:
        images: The list.
        shard_size: Images per shard, at least 1; a shard holds fewer where some of its images cannot be read.
        batch_size: Images per batch.
        workers: Worker processes that read and decode; 0 = this one does.

    Raises:
        ValueError: If a number is out of range.
    """

    def __init__(self, images: ImageSet, shard_size: int = 10_000, batch_size: int = 64, workers: int = 0) -> None:
        check_shard_size(shard_size)
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.set, self.shard_size, self.batch_size, self.workers = copy(images), shard_size, batch_size, workers
        self.set.ask_captions(True)
        self.images, self.side = len(images), images.image_size
        self.classes = images.source.classes
        self.about = dict(images.about)

    @property
    @override
    def shards(self) -> int:
        return -(-len(self.set) // self.shard_size)

    @override
    def batches(self, wanted: Wanted) -> Iterator[tuple[int, Batch]]:
        numbers: deque[int] = deque()
        loader = self.set.loader(self._places(wanted, numbers), self.workers)
        for batch in watched(loader, len(self.set), "export"):
            yield numbers.popleft(), batch

    def _places(self, wanted: Wanted, numbers: deque[int]) -> Iterator[list[tuple[int, int]]]:
        """Places of the wanted shards' images, batch by batch; notes which shard each batch is of."""
        size, step = self.shard_size, self.batch_size or 1
        for number in filter(wanted, range(self.shards)):
            end = min((number + 1) * size, len(self.set))
            for start in range(number * size, end, step):
                numbers.append(number)
                yield [(0, index) for index in range(start, min(start + step, end))]


class BatchFeed(Feed):
    """Batches that come one after the other: all are read, whatever shards are wanted.

    Args:
        batches: In the order in which they are to be stored.
        shard_size: Images per shard, at least 1.
        classes: Names of the classes, by label.
        about: What the batches are.
        batch_size: Images per batch at most; None = as they come.
        side: Of the squares that the images are, in pixels; None = as they come.

    Raises:
        ValueError: If the shard size is less than 1.
    """

    def __init__(
        self,
        batches: Iterable[Batch],
        shard_size: int = 10_000,
        classes: list[str] | None = None,
        about: dict[str, Any] | None = None,
        batch_size: int | None = None,
        side: int | None = None,
    ) -> None:
        check_shard_size(shard_size)
        self.source, self.shard_size, self.batch_size, self.side = batches, shard_size, batch_size, side
        self.classes, self.about = classes or [], about or {}
        self._shards = 0

    @property
    @override
    def shards(self) -> int:
        return self._shards

    @override
    def batches(self, wanted: Wanted) -> Iterator[tuple[int, Batch]]:
        seen = 0
        taken = wanted(0)
        for batch in watched(self.source, None, "export"):
            if taken and not len(batch.image):  # of unreadable samples only: they belong to the images before them
                yield max(0, seen - 1) // self.shard_size, batch
            start = 0
            while start < len(batch.image):
                number, filled = divmod(seen, self.shard_size)
                if number and not filled:
                    taken = wanted(number)
                end = min(len(batch.image), start + self.shard_size - filled)
                if taken:
                    yield number, _part(batch, start, end)
                seen, start = seen + end - start, end
        self._shards = max(self._shards, -(-seen // self.shard_size))


def make_feed(images: Images, shard_size: int, batch_size: int, workers: int) -> Feed:
    """A feed of whatever data there are; of a stream one worker at most, since several would change the order."""
    if isinstance(images, ImageSet):  # of which shards that are there need not be read
        return ListFeed(images, shard_size, batch_size, workers)
    loader = evaluation_loader(images, batch_size, min(1, workers))
    return BatchFeed(loader, shard_size, about=dict(images.about), batch_size=batch_size, side=images.image_size)


def _part(batch: Batch, start: int, end: int) -> Batch:
    rows = slice(start, end)
    return replace(
        batch,
        image=batch.image[rows],
        label=batch.label[rows],
        index=batch.index[rows],
        key=batch.key[rows],
        caption=batch.caption[rows],
        texts=batch.texts[rows],
        bad=batch.bad if start == 0 else [],
    )


def check_shard_size(shard_size: int) -> None:
    """Raise ValueError unless a shard can have so many images."""
    if shard_size < 1:
        raise ValueError(f"shard_size must be at least 1, got {shard_size}")
