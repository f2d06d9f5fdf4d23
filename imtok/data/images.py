"""Sources of images, and the data set that turns one into samples: the same ones, whoever asks, whenever."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from functools import cached_property, partial
from typing import Any

import numpy as np
import xxhash
from jaxtyping import Float64, Int64, Real, UInt8, UInt64
from torch import Tensor
from torch.utils.data import Dataset
from typing_extensions import override

from imtok.conditions.base import NO_LABEL
from imtok.data.archives.names import Names
from imtok.data.contract import Images, Sample
from imtok.data.order.collate import collate
from imtok.data.order.position import StreamPosition
from imtok.data.order.randomness import Purpose, bit_stream, generator
from imtok.data.order.sampler import Blocks, Steps, TrainBatches, places
from imtok.data.order.workers import Loader
from imtok.data.reading.decode import DecodeError, upright_shape
from imtok.data.reading.headers import SUFFIXES
from imtok.data.reading.reading import Reading
from imtok.data.reading.transforms import Transform
from imtok.errors import InputError

ATTEMPTS = 32  # where half of all images were bad, one sample in four billion would find no stand-in

Columns = dict[str, Names | np.ndarray]
Origins = UInt64[np.ndarray, "images 3"]
HEADER = 2**15  # bytes that are enough for most headers
MAX_BYTES = 2**30  # no image that max_pixels allows is larger; a damaged size must not fill the memory


class Source(ABC):
    """A list of images, in a fixed order.

    Attributes:
        classes: Names of the classes; a label is a position in it, or -1.
        reading: How the files are decoded.
        channels: Of the decoded images: 1 (grey, float32), 3 (RGB) or 4 (RGB and alpha), as
            :func:`~imtok.data.reading.decode.decode_image` has them; :meth:`ask_channels` changes it.
        blocks: Which samples lie together, where the order should mind that; None = it need not.
        content_hashes: What the bytes of each image must hash to; None = they are taken as they are.
        remarks: What is not read, or is odd but can be used. Each is one sentence without a full stop: "skipped 12
            files of DIR that imtok does not read: 10 .heic, 2 .gif". Every command that reads the data says each once.
    """

    classes: list[str]
    remarks: tuple[str, ...] = ()
    reading: Reading = Reading()
    channels: int = 3
    blocks: Blocks | None = None
    content_hashes: UInt8[np.ndarray, "images 16"] | None = None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, index: int) -> bytes:
        """The encoded image.

        Raises:
            OSError: If this one cannot be read.
            InputError: If more than this one cannot be read.
        """

    @abstractmethod
    def key(self, index: int) -> str:
        """The image's name, unlike any other's, in printable characters."""

    @abstractmethod
    def label(self, index: int) -> int:
        """The image's class, -1 where there is none."""

    @abstractmethod
    def record(self, index: int) -> str:
        """One line that changes when the image is moved or replaced: key, size, offset, label, ..."""

    def stem(self, index: int) -> str:
        """The image's name where it came from, without its suffix; others may bear it too."""
        key = self.key(index)
        return key.rpartition(".")[0] if key.lower().endswith(tuple(map(bytes.decode, SUFFIXES))) else key

    def caption(self, index: int) -> str | None:
        """The first text about the image; None where there is none."""
        return None

    def texts(self, index: int) -> tuple[str, ...]:
        """All texts about the image, of which :meth:`caption` is the first."""
        caption = self.caption(index)
        return () if caption is None else (caption,)

    def origins(self) -> Origins | None:
        """Device and number of the file that each image lies in, and its place there; None where that is not known."""
        return None

    def ask_channels(self, channels: int) -> None:
        """Let all images have 1, 3 or 4 channels."""
        self.channels = channels

    def image(self, index: int, least: int | None = None) -> Real[Tensor, "c h w"]:
        """The decoded image; DecodeError that names it if it is damaged or not the one of the index.

        Args:
            index: Which image.
            least: It may be decoded at a half, a quarter or an eighth of its size as long as its short side keeps so
                many pixels; None = at its own size.
        """
        data = self.read(index)
        if self.content_hashes is not None and content_hash(data) != self.content_hashes[index].tobytes():
            raise DecodeError(f"{self.key(index)}: does not have the content of the index")
        return self.reading.pixels(data, self.key(index), least, self.channels)

    def start(self, index: int, count: int) -> bytes:
        """The first bytes of the encoded image; errors as in :meth:`read`."""
        return self.read(index)[:count]

    def shape(self, index: int) -> tuple[int, int]:
        """Height and width of the decoded image, from its header alone; errors as in :meth:`image`."""
        try:
            return upright_shape(self.start(index, HEADER), self.key(index))
        except DecodeError:  # a long profile comes first, or the type is told from the whole file
            return upright_shape(self.read(index), self.key(index))

    @cached_property
    def digest(self) -> str:
        """Sha256 over all records: a run that resumes on another list of samples is another run."""
        digest = hashlib.sha256()
        for index in range(len(self)):
            digest.update(self.record(index).encode() + b"\n")
        return digest.hexdigest()


class Indexable(Source):
    """A source whose list of images can be stored.

    Attributes:
        kind: Of what it is a list.
    """

    kind: str

    @abstractmethod
    def columns(self) -> Columns:
        """All that its list holds, in columns."""


def content_hash(data: bytes) -> bytes:
    """16 bytes that change with any of ``data``: xxh3, faster than any disk, not made against forgers."""
    return xxhash.xxh3_128_digest(data)


class Subset(Source):
    """Some images of a source.

    Args:
        source: The source.
        indices: Which of its images, in ascending order.
    """

    def __init__(self, source: Source, indices: Int64[np.ndarray, " n"]) -> None:
        self.source, self.indices, self.classes = source, indices, source.classes
        self.remarks, self.channels = source.remarks, source.channels
        self.blocks = None if source.blocks is None else source.blocks.of(indices)

    @override
    def __len__(self) -> int:
        return len(self.indices)

    @override
    def read(self, index: int) -> bytes:
        return self.source.read(int(self.indices[index]))

    @override
    def ask_channels(self, channels: int) -> None:
        super().ask_channels(channels)
        self.source.ask_channels(channels)

    @override
    def image(self, index: int, least: int | None = None) -> Real[Tensor, "c h w"]:
        return self.source.image(int(self.indices[index]), least)

    @override
    def shape(self, index: int) -> tuple[int, int]:
        return self.source.shape(int(self.indices[index]))

    @override
    def stem(self, index: int) -> str:
        return self.source.stem(int(self.indices[index]))

    @override
    def caption(self, index: int) -> str | None:
        return self.source.caption(int(self.indices[index]))

    @override
    def texts(self, index: int) -> tuple[str, ...]:
        return self.source.texts(int(self.indices[index]))

    @override
    def origins(self) -> Origins | None:
        origins = self.source.origins()
        return None if origins is None else origins[self.indices]

    @override
    def key(self, index: int) -> str:
        return self.source.key(int(self.indices[index]))

    @override
    def label(self, index: int) -> int:
        return self.source.label(int(self.indices[index]))

    @override
    def record(self, index: int) -> str:
        return self.source.record(int(self.indices[index]))


class ImageSet(Images, Dataset[Sample]):
    """Transformed images, each a pure function of the seed, the epoch and its index.

    In training another image stands in for one that cannot be decoded: which one is a function of the same three, so
    batches are full and the same for any number of workers. In evaluation nothing stands in.

    Args:
        source: The images.
        transform: Makes them squares of one size.
        seed: The run's seed, for random transforms.
        training: Replace images that cannot be decoded.
        least: See :meth:`Source.image`.
        captioned: Samples have captions: the first text about an image, and in training one of all that is drawn anew
            in each epoch.

    Attributes:
        boxes: Finds the boxes of objects in an image of a source; None = samples have no boxes.

    Raises:
        InputError: If the source is empty.
    """

    boxes: Callable[[Source, int], Float64[np.ndarray, "n 4"]] | None = None
    kind = "a list"

    def __init__(
        self,
        source: Source,
        transform: Transform,
        seed: int = 0,
        training: bool = False,
        least: int | None = None,
        captioned: bool = False,
    ) -> None:
        if len(source) == 0:
            raise InputError("the data set holds no image; give a path that does")
        self.source, self.transform, self.seed, self.training = source, transform, seed, training
        self.least, self.captioned = least, captioned

    def __len__(self) -> int:
        return len(self.source)

    @property
    @override
    def count(self) -> int:
        return len(self)

    @property
    def blocks(self) -> Blocks | None:
        """What :class:`~imtok.data.order.sampler.TrainBatches` should know of how the samples lie on the disk."""
        return self.source.blocks

    @property
    @override
    def remarks(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride], they are its source's
        return self.source.remarks

    @property
    def digest(self) -> str:
        """Sha256 of the list of samples."""
        return self.source.digest

    @property
    @override
    def about(self) -> dict[str, int | str]:
        return {"images": len(self), "sha256": self.digest}

    @property
    @override
    def cache_key(self) -> str:
        grey = "" if self.channels == 3 else f" {self.channels} channels"
        return f"{self.digest} {len(self)} {self.image_size}{grey}"

    @property
    @override
    def channels(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride], as above
        return self.source.channels

    @override
    def ask_channels(self, channels: int) -> None:
        self.source.ask_channels(channels)

    @override
    def ask_captions(self, wanted: bool) -> None:
        self.captioned = self.captioned or wanted

    @override
    def lacking(self, kind: str, number: int) -> tuple[int, int]:
        source, looked_at = self.source, places(number, len(self.source)).tolist()
        if kind == "caption":
            return sum(not any(text.strip() for text in source.texts(place)) for place in looked_at), len(looked_at)
        return sum(source.label(place) == NO_LABEL for place in looked_at), len(looked_at)

    @override
    def spread(self, most: int) -> "ImageSet":
        return self if len(self) <= most else self.some(places(most, len(self)))

    @override
    def shuffled(self, most: int | None, seed: int) -> "ImageSet":
        return self.some(np.random.default_rng(seed).permutation(len(self))[:most].astype(np.int64))

    @override
    def training_batches(self, steps: Steps, position: StreamPosition | None = None) -> TrainBatches:
        return TrainBatches(len(self), *steps, self.blocks)

    @override
    def evaluation_batches(self, batch_size: int, rank: int, world: int) -> list[list[tuple[int, int]]]:
        own = [(0, index) for index in range(rank, len(self), world)]
        return [own[at : at + batch_size] for at in range(0, len(own), batch_size)]

    @override
    def loader(self, batches: Iterable[Any], workers: int) -> Loader:
        put_together = partial(collate, size=self.image_size, channels=self.channels)
        return Loader(self, workers, batch_sampler=batches, collate_fn=put_together)

    @override
    def spread_loader(self, number: int) -> Loader:
        return self.loader([[(0, index) for index in places(number, len(self)).tolist()]], 0)

    @override
    def whole_loader(self, batch_size: int, workers: int, own: Callable[[int], bool]) -> Loader:
        batches = self.evaluation_batches(batch_size, 0, 1)
        return self.loader([batch if own(number) else [] for number, batch in enumerate(batches)], workers)

    @override
    def samples(self, number: int) -> list[Sample]:
        return [self[0, index] for index in sorted(set(np.linspace(0, len(self) - 1, number).astype(int).tolist()))]

    def some(self, indices: Int64[np.ndarray, " n"]) -> "ImageSet":
        """Those at some places, in evaluation mode."""
        images = ImageSet(Subset(self.source, indices), self.transform, captioned=self.captioned)
        images.boxes = self.boxes
        return images

    @override
    def __getitem__(self, place: tuple[int, int]) -> Sample:
        """The sample at ``(epoch, index)``."""
        epoch, index = place
        shown, bad = index, []
        for attempt in range(ATTEMPTS if self.training else 1):
            try:
                image = self.source.image(shown, self.least)
            except DecodeError as error:
                bad.append(str(error))
            except OSError as error:
                bad.append(f"{self.source.key(shown)}: {error.strerror or error}")
            else:
                shape = (image.shape[-2], image.shape[-1])
                image = self.crop(index)(image, generator(Purpose.AUGMENT, self.seed, epoch, index))
                caption, texts = self._texts(epoch, index, shown) if self.captioned else ("", ())
                boxes = None if self.boxes is None else self.crop(index).placed(self.boxes(self.source, shown), shape)
                label, key = self.source.label(shown), self.source.key(shown)
                return Sample(image, label, shown, key, tuple(bad), caption=caption, texts=texts, boxes=boxes)
            if len(self) > 1:
                draw = int(bit_stream(Purpose.REPLACE, self.seed, epoch, index, attempt).random_raw())
                shown = (index + 1 + draw % (len(self) - 1)) % len(self)
        error = f"no image could be decoded in {len(bad)} tries, the last being {bad[-1]}; check the data"
        key, label = self.source.key(index), self.source.label(index)
        return Sample(None, label, index, key, tuple(bad), error if self.training else None)

    def crop(self, index: int) -> Transform:
        """The transform for the sample of a place."""
        return self.transform

    def _texts(self, epoch: int, index: int, shown: int) -> tuple[str, tuple[str, ...]]:
        """In training one of the texts, drawn by seed, epoch and place; else the first one, beside all of several."""
        texts = self.source.texts(shown)
        if not self.training:
            return texts[0] if texts else "", texts if len(texts) > 1 else ()
        drawn = int(bit_stream(Purpose.CAPTION, self.seed, epoch, index).random_raw())
        return texts[drawn % len(texts)] if texts else "", ()
