"""Images of streamed shards, which are read one after the other."""

import hashlib
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from itertools import count, islice
from typing import Any, NamedTuple, cast

import numpy as np
import xxhash
from jaxtyping import Real
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info
from typing_extensions import override

from imtok.data.archives.encoded import EncodedImage
from imtok.data.archives.members import Fields
from imtok.data.archives.names import hash_fraction
from imtok.data.archives.remote import Stage, read_remote
from imtok.data.archives.transport import Opener, RemoteShard, open_url
from imtok.data.contract import Images, Sample
from imtok.data.images import ATTEMPTS, MAX_BYTES
from imtok.data.order.collate import collate
from imtok.data.order.position import StreamPosition
from imtok.data.order.randomness import Purpose, bit_stream, generator
from imtok.data.order.sampler import Steps, epoch_order
from imtok.data.order.workers import Loader
from imtok.data.reading.decode import DecodeError
from imtok.data.reading.headers import KINDS
from imtok.data.reading.reading import Reading
from imtok.data.reading.transforms import Transform
from imtok.errors import InputError
from imtok.types import Batch

log = logging.getLogger(__name__)


class StreamPart(NamedTuple):
    """Which images of a stream are taken: "all", or the side ("train", "val") of a split by the hash of the key."""

    split: str = "all"
    val_fraction: float = 0.0

    def holds(self, key: str) -> bool:
        """Whether an image of that name is taken."""
        return self.split == "all" or (hash_fraction(key) < self.val_fraction) == (self.split == "val")


class ImageStream(Images):
    """Transformed images of streamed shards.

    In training it has no end: every epoch reads each shard once, in an order that is a function of seed and epoch, and
    a buffer mixes the images of each reader. Crops are a function of seed, epoch and key. An image that cannot be
    decoded is left out for the next one. Batches depend on how many processes and workers read, since each shard is
    read by one of them.

    Args:
        shards: The shards.
        transform: Makes the images squares of one size.
        seed: The run's seed.
        training: Read without end, shuffled.
        part: Which images are taken.
        buffer: Images that a reader mixes in training, at least 1; 1 = as they lie in the shards.
        reading: How the images are decoded.

    Attributes:
        opener: What opens a shard.
        fields: Which members of a shard are read.
        classes: Names of the classes in their order, for shards in which these are written as names.
        least: See :meth:`imtok.data.images.Source.image`.
        needs_captions: Whether a caption that is too long is refused; False = the image goes without, and that is said.
        said: What was said of the images so far, each sentence once.

    Raises:
        ValueError: If ``buffer`` is not positive.
    """

    nothing = f"data.path holds no {KINDS} in any shard; give shards that do"
    unheld = "data.path holds no held-out image; give data.val_path, or raise data.val_fraction"
    untrained = (
        "data.path holds no image to train on: its shards have none, or all are held out; lower data.val_fraction"
    )

    def __init__(
        self,
        shards: list[RemoteShard],
        transform: Transform,
        seed: int = 0,
        training: bool = False,
        part: StreamPart = StreamPart(),  # noqa: B008, it cannot change
        buffer: int = 256,
        reading: Reading = Reading(),  # noqa: B008, it cannot change
    ) -> None:
        if buffer < 1:
            raise ValueError(f"shuffle_buffer must be at least 1, got {buffer}")
        self.shards, self.transform, self.seed, self.training = shards, transform, seed, training
        self.part, self.buffer, self.reading = part, buffer, reading
        self.opener: Opener = open_url
        self.fields, self.classes = Fields(), cast("Sequence[str] | None", None)
        self.said: set[str] = set()
        self.least = reading.least(transform) if training else None
        self.needs_captions = True

    @override
    def ask_captions(self, wanted: bool) -> None:
        self.needs_captions = wanted  # those that are there are read in any case

    @property
    @override
    def about(self) -> dict[str, int | str]:
        """The shards' names, wherever they lie now."""
        digest = hashlib.sha256("\n".join(shard.name for shard in self.shards).encode()).hexdigest()
        return {"shards": len(self.shards), "sha256": digest}

    @property
    @override
    def size(self) -> str:
        return f"{len(self.shards):,} shards"

    @override
    def position(self, state: dict[str, Any] | None = None) -> StreamPosition:
        return StreamPosition(len(self.shards), state)

    @override
    def going_on(self, position: StreamPosition) -> str:
        return (
            f"going on at the next shard boundary of epoch {position.epoch}: what was left of the shards begun so far "
            f"({len(position.begun.get(position.epoch, ()))} of {position.shards}) is not read in this epoch"
        )

    def check_readers(self, world: int, workers: int) -> None:
        """Look whether so many processes can read it, each with so many workers.

        Raises:
            InputError: If there are fewer shards than readers in training.
        """
        if self.training and len(self.shards) < world * workers:
            raise InputError(
                f"data.path names {len(self.shards)} shards for {world * workers} readers ({world} processes x "
                f"{workers} trainer.workers), each of which needs one; lower trainer.workers or write more, smaller "
                "shards"
            )

    @override
    def training_batches(self, steps: Steps, position: StreamPosition | None = None) -> "StreamBatches":
        images = steps.global_batch // (steps.world * steps.accumulate)
        number = (steps.total_steps - steps.start_step) * steps.accumulate
        return StreamBatches(self, images, steps.rank, steps.world, number, position)

    @override
    def evaluation_batches(self, batch_size: int, rank: int, world: int) -> "StreamBatches":
        return StreamBatches(self, batch_size, rank, world)

    @override
    def loader(self, batches: "StreamBatches", workers: int) -> Loader:
        self.check_readers(batches.world, max(1, workers))
        return Loader(batches, workers, batch_size=None, collate_fn=_as_it_is)

    @override
    def spread_loader(self, number: int) -> list[Batch]:
        first = next(iter(self.loader(StreamBatches(self, number), 0)), None)
        if first is None:
            raise InputError(self.unheld)
        return [first]

    @override
    def whole_loader(self, batch_size: int, workers: int, own: Callable[[int], bool]) -> Loader:
        return self.loader(StreamBatches(self, batch_size), min(1, workers))  # several would change the order

    def once(self, reader: int, readers: int, shards: Sequence[int] | None = None) -> Iterator[Sample]:
        """Every image of every ``readers``-th shard once, in order; bad ones as samples without an image.

        Args:
            reader: Index of this reader, of all workers of all processes.
            readers: Their number.
            shards: Read these instead.
        """
        found = False
        for image in self._read(self._own(reader, readers) if shards is None else shards):
            found = True
            if self.part.holds(self._key(image)):
                yield self._sample(image)
        if not found and readers == 1 and shards is None:  # other shards may have some
            raise InputError(self.nothing)

    def endless(self, reader: int, readers: int, position: StreamPosition) -> Iterator[Sample]:
        """One reader's images for training, from ``position`` on.

        Raises:
            InputError: If too many images in a row cannot be decoded, or a whole epoch's worth of shards has none.
        """
        bad: deque[str] = deque()
        fruitless = 0
        begin = position.epoch
        for epoch in count(begin):
            own = self._own(reader, readers, epoch, position)
            found = False
            for image in self._read(own, epoch, epoch == begin, (self._held, self._mixed)):
                found = True
                sample = self._sample(image)
                if sample.image is None:
                    bad.extend(sample.bad)
                    if len(bad) >= ATTEMPTS:
                        raise InputError(
                            f"no image could be decoded in {len(bad)} tries, the last being {bad[-1]}; check the data"
                        )
                    continue
                yield replace(sample, bad=tuple(bad))
                bad.clear()
            fruitless = 0 if found else fruitless + len(own)
            if fruitless >= len(self.shards):
                raise InputError(self.untrained)

    def _own(self, reader: int, readers: int, epoch: int = 0, position: StreamPosition | None = None) -> Sequence[int]:
        """The shards that a reader reads in an epoch: webdataset's split by node and then by worker."""
        if position is None:
            return range(reader, len(self.shards), readers)
        return position.left(epoch, epoch_order(len(self.shards), self.seed, epoch).tolist())[reader::readers]

    def _read(
        self, shards: Iterable[int], epoch: int = 0, say: bool = True, stages: Sequence[Stage] = ()
    ) -> Iterator[EncodedImage]:
        """The images of some shards; what is left aside of these is only said if ``say``, by whoever reads it then."""
        readings = [self.shards[shard]._replace(number=shard, epoch=epoch) for shard in shards]
        return read_remote(readings, self.opener, self.fields, self.classes, self._say if say else None, stages)

    def _held(self, images: Iterable[EncodedImage]) -> Iterator[EncodedImage]:
        """A stage: the images of the part that is taken."""
        return (image for image in images if self.part.holds(self._key(image)))

    def _mixed(self, images: Iterable[EncodedImage]) -> Iterator[EncodedImage]:
        """A stage: the images through a buffer, from which the next one drives out any other.

        webdataset's own draws from the clock. Here what an image drives out is a function of seed, epoch, its shard and
        its place there.
        """
        kept, draws, reading = list[EncodedImage](), None, None
        for image in images:
            if reading != (image.epoch, image.shard):
                reading = (image.epoch, image.shard)
                draws = bit_stream(Purpose.MIX, self.seed, *reading)
            kept.append(image)
            if len(kept) >= self.buffer and draws is not None:
                yield _drawn(kept, draws)
        draws = bit_stream(Purpose.MIX, self.seed, kept[0].epoch if kept else 0, len(self.shards))
        while kept:
            yield _drawn(kept, draws)

    def _say(self, remark: str) -> None:
        if remark not in self.said:  # every evaluation would say it again
            self.said.add(remark)
            log.warning(remark)

    def _pixels(self, data: Any, key: str) -> Real[Tensor, "c h w"]:
        """An image, decoded."""
        if data is None:
            raise DecodeError(f"{key}: is larger than {MAX_BYTES} bytes")
        return self.reading.pixels(data, key, self.least, self.channels)

    def _key(self, image: EncodedImage) -> str:
        return f"{self.shards[image.shard].name}:{image.stem}"

    def _draw(self, key: str) -> int:
        """What the crop of an image depends on beside seed and epoch."""
        return xxhash.xxh3_64_intdigest(key.encode())

    def _origin(self, image: EncodedImage) -> str:
        return f"shard {self.shards[image.shard].name}"

    def _sample(self, image: EncodedImage) -> Sample:
        key, reading = self._key(image), image.epoch * len(self.shards) + image.shard
        try:
            pixels = self._pixels(image.data, key)
        except DecodeError as error:
            return Sample(None, image.label, reading, key, (str(error),))
        draw = self._draw(key)
        random = generator(Purpose.AUGMENT, self.seed, image.epoch, draw)
        if image.unread and self.needs_captions:
            raise InputError(f"{self._origin(image)} cannot be used: it {image.unread}")
        if image.unread:
            self._say(f"{self._origin(image)} {image.unread}; it is left out, and nobody needs it here")
        return self._with_texts(Sample(self.transform(pixels, random), image.label, reading, key), image, draw)

    def _with_texts(self, sample: Sample, image: EncodedImage, draw: int) -> Sample:
        """In training one of the texts, drawn by seed, epoch and image; else the first one, beside all of several."""
        texts = image.texts
        if len(texts) < 2:
            return replace(sample, caption="".join(texts))
        if not self.training:
            return replace(sample, caption=texts[0], texts=texts)
        drawn = int(bit_stream(Purpose.CAPTION, self.seed, image.epoch, draw).random_raw())
        return replace(sample, caption=texts[drawn % len(texts)])


class StreamBatches(IterableDataset[Batch | InputError]):
    """One process's batches; its workers read shards of their own and take turns.

    Args:
        images: The stream.
        batch_size: Images per batch.
        rank: Index of this process.
        world: Number of processes.
        number: How many batches a training run takes; ignored in evaluation, which ends with the last image.
        position: Where training starts.
        shards: Which shards are read in evaluation, whole and in this order; None = those of this process.
    """

    count = None  # of the images, which a stream does not know

    def __init__(
        self,
        images: ImageStream,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        number: int = 0,
        position: StreamPosition | None = None,
        shards: Sequence[int] | None = None,
    ) -> None:
        self.images, self.batch_size, self.rank, self.world = images, batch_size, rank, world
        self.shards = shards
        # The run's own goes on while this one reads, and with it who would read what.
        self.number, self.position = number, deepcopy(position) or images.position()

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
                samples = self.images.once(reader, readers, self.shards)
            while some := list(islice(samples, self.batch_size)):
                yield collate(some, self.images.image_size, self.images.channels)
        except InputError as error:
            yield error


def _as_it_is(batch: Batch | InputError) -> Batch | InputError:
    return batch


def _drawn(kept: list[EncodedImage], draws: np.random.Philox) -> EncodedImage:
    at = int(draws.random_raw()) % len(kept)
    kept[at], kept[-1] = kept[-1], kept[at]
    return kept.pop()
