"""What lists and streams of images have in common, so that nobody asks which of the two is given."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Real
from torch import Tensor

from imtok.data.order.position import StreamPosition
from imtok.data.order.sampler import Steps
from imtok.data.order.workers import Loader
from imtok.data.reading.transforms import Transform
from imtok.types import Batch


@dataclass(frozen=True)
class Sample:
    """What an :class:`ImageSet` holds.

    Attributes:
        image: The transformed image; None if it is bad and nothing stands in for it.
        label: Class of the image that is shown, -1 where there is none.
        index: Its position in the data set.
        key: Its name.
        bad: ``key: reason`` for every image that was tried and could not be decoded.
        error: Why there can be no image in training; None otherwise.
        source: What the image is to be made from, where that is not the image itself; see :class:`Batch`.
        caption: Text about the image; "" where there is none or it was not looked for.
        texts: All texts about it, where these are several and were looked for.
        boxes: Left, top, right and bottom of objects in the transformed image, in pixels, parts of which it may not
            show; None where they were not looked for.
    """

    image: Real[Tensor, "c h w"] | None
    label: int
    index: int
    key: str
    bad: tuple[str, ...] = ()
    error: str | None = None
    source: Tensor | None = None
    caption: str = ""
    texts: tuple[str, ...] = ()
    boxes: Float64[np.ndarray, "n 4"] | None = None


class Images(ABC):
    """Transformed images: a list (:class:`~imtok.data.images.ImageSet`), or a stream.

    What a class does not override is so where nothing is known of the images before they are read.

    Attributes:
        transform: Makes the images squares of one size.
        kind: What they are, where they are refused.
        remarks: See :class:`~imtok.data.images.Source`.
        channels: Of the images: 1, 3 or 4; see :func:`~imtok.data.reading.decode.decode_image`.
    """

    transform: Transform
    kind: str = "a stream"
    remarks: tuple[str, ...] = ()
    channels: int = 3

    @property
    def count(self) -> int | None:
        """How many images there are; None = that is known once all are read."""
        return None

    @property
    def size(self) -> str:
        """How much it is, for a reader."""
        return f"{self.count:,}"

    @property
    @abstractmethod
    def about(self) -> dict[str, int | str]:
        """What a run must find again when it resumes."""

    def was(self, about: Mapping[str, Any]) -> bool:
        """Whether a run of before, whose :attr:`about` is given, had these images."""
        return self.about == about

    @property
    def sketch(self) -> str:
        """A text that is quickly made, and differs where processes of one run read other images."""
        return repr(self.about)

    @property
    def cache_key(self) -> str:
        """What statistics of the images are kept under; "" = they are not kept."""
        return ""

    @property
    def parts(self) -> "Sequence[Images]":
        """The sets that they are mixed of, each with a transform of its own; themselves where they are not mixed."""
        return [self]

    @property
    def image_size(self) -> int:
        """Side of the images, in pixels."""
        return self.transform.size

    def ask_channels(self, channels: int) -> None:
        """Let all samples have 1, 3 or 4 channels."""
        self.channels = channels

    @abstractmethod
    def ask_captions(self, wanted: bool) -> None:
        """Let all samples have captions, where there are any, if somebody wants them."""

    def lacking(self, kind: str, number: int) -> tuple[int, int]:
        """How many of a list's images have no ``kind`` ("caption", "label"), and of how many: ``number`` at most."""
        return 0, 0

    def spread(self, most: int) -> "Images":
        """At most so many of them, evenly over a list; themselves if there are no more. A stream is returned whole."""
        return self

    def shuffled(self, most: int | None, seed: int) -> "Images":
        """At most so many of a list, all if None, drawn and ordered by ``seed``. A stream stays as it is."""
        return self

    def cropped(self, transform: Transform) -> "Images":
        """The same images through another transform."""
        images = copy(self)
        images.transform = transform
        return images

    @abstractmethod
    def training_batches(self, steps: Steps, position: StreamPosition | None = None) -> Any:
        """What :meth:`loader` reads for some steps of training.

        Args:
            steps: Which steps, and which part of each batch.
            position: Which shards of a stream not to read again; None = none was begun.
        """

    @abstractmethod
    def evaluation_batches(self, batch_size: int, rank: int, world: int) -> Any:
        """What :meth:`loader` reads in one of several processes that share the images."""

    @abstractmethod
    def loader(self, batches: Any, workers: int) -> Loader:
        """The batches, read by so many worker processes; InputError if there are too many of them for a stream."""

    @abstractmethod
    def spread_loader(self, number: int) -> Iterable[Batch]:
        """One batch of ``number`` images, evenly over a list or the first of a stream; InputError if that has none."""

    @abstractmethod
    def whole_loader(self, batch_size: int, workers: int, own: Callable[[int], bool]) -> Loader:
        """All batches in their order, of which those whose number is not ``own`` may be empty."""

    def samples(self, number: int) -> list[Sample]:
        """At most so many samples from the first one to the last one of a list; none of a stream."""
        return []

    def position(self, state: dict[str, Any] | None = None) -> StreamPosition | None:
        """Where a run on a stream goes on, from what it saved; None for a list, where the step says it."""
        return None

    def going_on(self, position: StreamPosition) -> str:
        """Where a run goes on that is resumed at ``position``, for a reader."""
        return ""
