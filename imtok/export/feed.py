"""Images for an export, shard by shard, so that several processes can share them and a killed one can go on."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from copy import copy
from dataclasses import replace
from itertools import islice
from typing import Any

from typing_extensions import override

from imtok import bars
from imtok.data.base import Images
from imtok.data.images import ImageSet
from imtok.data.order.loader import evaluation_loader, watched
from imtok.data.sources.pipeline_stream import PipelineStream
from imtok.data.stream import ImageStream, StreamBatches
from imtok.types import Batch

Wanted = Callable[[int], bool]


class Feed(ABC):
    """Images in a fixed order, cut into shards; batches never reach over the end of a shard.

    So the batches that a shard is encoded in, and with them its ids to the last bit, do not depend on how many
    processes there are or where one of them started.

    Attributes:
        cut: What decides which images are in which shard, by the name of its setting.
        batch_size: Images per batch at most; None = as they come.
        images: How many there are, unreadable ones included; None = that shows in the end.
        side: Of the squares that the images are, in pixels; None = as they come.
        classes: Names of the classes, by label.
        about: What must be the same for a rest of the shards to fit those that are there.
    """

    cut: dict[str, int]
    batch_size: int | None = None
    images: int | None = None
    side: int | None = None
    classes: list[str]
    about: dict[str, Any]

    @abstractmethod
    def batches(self, wanted: Wanted) -> Iterator[tuple[int, Batch | None]]:
        """Every batch of every wanted shard, with the shard's number; None in place of a batch after the last one.

        The batches of a shard come in order. Those of others may lie between them.

        Args:
            wanted: Asked once for each shard, in ascending order, when its turn comes.
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
        self.cut = {"shard_size": shard_size}
        self.set.ask_captions(True)
        self.images, self.side = len(images), images.image_size
        self.classes = images.source.classes
        self.about = dict(images.about)

    @property
    @override
    def shards(self) -> int:
        return -(-len(self.set) // self.shard_size)

    @override
    def batches(self, wanted: Wanted) -> Iterator[tuple[int, Batch | None]]:
        numbers: deque[int] = deque()
        loader = self.set.loader(self._places(wanted, numbers), self.workers)
        return _with_ends((numbers.popleft(), batch) for batch in watched(loader, len(self.set), "export"))

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
        self.cut = {"shard_size": shard_size}
        self.classes, self.about = classes or [], about or {}
        self._shards = 0

    @property
    @override
    def shards(self) -> int:
        return self._shards

    @override
    def batches(self, wanted: Wanted) -> Iterator[tuple[int, Batch | None]]:
        return _with_ends(self._parts(wanted))

    def _parts(self, wanted: Wanted) -> Iterator[tuple[int, Batch]]:
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


class StreamFeed(Feed):
    """Streamed shards, of which a reader reads only those that it has claimed.

    A shard of the store holds the images of so many shards of the stream, however many these are. So a worker or a
    process begins at any of them, and nobody reads what somebody else encodes.

    Args:
        images: The stream, in evaluation mode.
        input_shards: Shards of the stream in one shard of the store, at least 1.
        batch_size: Images per batch.
        workers: Worker processes, each of which reads a shard of the store; 0 = this one reads.

    Raises:
        ValueError: If a number is out of range.
    """

    def __init__(self, images: ImageStream, input_shards: int = 1, batch_size: int = 64, workers: int = 0) -> None:
        if input_shards < 1:
            raise ValueError(f"input_shards must be at least 1, got {input_shards}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.stream, self.batch_size, self.workers = images, batch_size, workers
        self.cut, self.side, self.classes = {"input_shards": input_shards}, images.image_size, []
        self.about = dict(images.about)

    @property
    @override
    def shards(self) -> int:
        return -(-len(self.stream.shards) // self.cut["input_shards"])

    @override
    def batches(self, wanted: Wanted) -> Iterator[tuple[int, Batch | None]]:
        return bars.watched(self._in_turn(wanted), None, "export", _images)

    def _in_turn(self, wanted: Wanted) -> Iterator[tuple[int, Batch | None]]:
        """Of as many shards as there are workers a batch each, again and again, so that all workers are busy."""
        claimed = filter(wanted, range(self.shards))
        begun = deque((number, self._read(number)) for number in islice(claimed, max(1, self.workers)))
        try:
            while begun:
                number, batches = begun[0]
                batch = next(batches, None)
                yield number, batch
                begun.rotate(-1)
                if batch is None:
                    begun.pop()
                    begun.extend((number, self._read(number)) for number in islice(claimed, 1))
        finally:
            for _, batches in begun:
                batches.close()

    def _read(self, number: int) -> Generator[Batch]:
        together = self.cut["input_shards"]
        shards = range(number * together, min((number + 1) * together, len(self.stream.shards)))
        batches = StreamBatches(self.stream, self.batch_size or 1, shards=shards)
        yield from self.stream.loader(batches, min(1, self.workers))


def make_feed(images: Images, shard_size: int, batch_size: int, workers: int, input_shards: int = 1) -> Feed:
    """A feed of whatever data there are.

    Args:
        images: A list, of which shards that are there need not be read; or a stream.
        shard_size: Images per shard; of streamed shards ``input_shards`` decides.
        batch_size: Images per batch.
        workers: Worker processes; of a pipeline of somebody's own one at most, since several would change the order.
        input_shards: See :class:`StreamFeed`.
    """
    if isinstance(images, ImageSet):
        return ListFeed(images, shard_size, batch_size, workers)
    if isinstance(images, ImageStream) and not isinstance(images, PipelineStream):
        return StreamFeed(images, input_shards, batch_size, workers)
    loader = evaluation_loader(images, batch_size, min(1, workers))
    return BatchFeed(loader, shard_size, about=dict(images.about), batch_size=batch_size, side=images.image_size)


def _images(found: tuple[int, Batch | None]) -> int:
    return 0 if found[1] is None else len(found[1].image) + len(found[1].bad)


def _with_ends(batches: Iterator[tuple[int, Batch]]) -> Iterator[tuple[int, Batch | None]]:
    """Batches whose shards come one after the other, with an end after each shard."""
    last = None
    for number, batch in batches:
        if last not in (None, number):
            yield last, None
        yield number, batch
        last = number
    if last is not None:
        yield last, None


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
