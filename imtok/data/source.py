"""A list of images in a fixed order: what is known of each, and what the list hashes to."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property

import numpy as np
import xxhash
from jaxtyping import Int64, Real, UInt8, UInt64
from torch import Tensor
from typing_extensions import override

from imtok.data.archives.names import Names, fold_array
from imtok.data.order.sampler import LISTED, Blocks
from imtok.data.reading.decode import DecodeError, upright_shape
from imtok.data.reading.headers import SUFFIXES
from imtok.data.reading.reading import Reading

Columns = dict[str, Names | np.ndarray]
Origins = UInt64[np.ndarray, "images 3"]
HEADER = 2**15  # bytes that are enough for most headers
AT_A_TIME = 2**14  # records
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

    def archives(self) -> Origins | None:
        """Device and number of the archives that images lie in, and place 0; None where there are none."""
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

    def records(self, indices: Int64[np.ndarray, " n"]) -> list[str]:
        """The records of some images."""
        return [self.record(index) for index in indices.tolist()]

    def fold(self, digest: xxhash.xxh3_128) -> None:
        """Put all that the records say into a digest, in whatever way is quick."""
        for lines in self._lines():
            digest.update(lines)

    @cached_property
    def identity(self) -> dict[str, str]:
        """What a run that goes on must find again, under the name of how it was made.

        ``sha256`` is over all records. Of more than 4,194,304 images there is ``xxh3`` instead, over columns.
        """
        if len(self) <= LISTED:
            return {"sha256": self.sha256}
        digest = xxhash.xxh3_128()
        self.fold(digest)
        return {"xxh3": digest.hexdigest()}

    @property
    def digest(self) -> str:
        """A text that changes with the list of images: a run that resumes on another list is another run."""
        return next(iter(self.identity.values()))

    @cached_property
    def sha256(self) -> str:
        """Sha256 over all records."""
        digest = hashlib.sha256()
        for lines in self._lines():
            digest.update(lines)
        return digest.hexdigest()

    def _lines(self) -> Iterator[bytes]:
        for first in range(0, len(self), AT_A_TIME):
            records = self.records(np.arange(first, min(first + AT_A_TIME, len(self))))
            yield "".join(f"{record}\n" for record in records).encode()


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

    @override
    def records(self, indices: Int64[np.ndarray, " n"]) -> list[str]:
        return self.source.records(self.indices[indices])

    @override
    def fold(self, digest: xxhash.xxh3_128) -> None:
        self.source.fold(digest)
        fold_array(digest, "indices", self.indices)
