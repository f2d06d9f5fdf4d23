"""Training images of several shapes, one shape per batch. Each image is in the bucket nearest to its own shape."""

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from hashlib import sha256

import numpy as np
from jaxtyping import Int64
from typing_extensions import override

from imtok.bars import watched
from imtok.data.base import Images, require_list
from imtok.data.images import ImageSet
from imtok.data.order.position import StreamPosition
from imtok.data.order.randomness import Purpose, bit_stream
from imtok.data.order.sampler import Steps, TrainBatches, epoch_order, taken
from imtok.data.reading.decode import DecodeError
from imtok.data.reading.transforms import Shape, Transform
from imtok.errors import InputError

KEY = "data.buckets"
WIDEST = 2.0  # longer side over shorter side of the outermost buckets that are made from a number


class BucketSet(ImageSet):
    """Training images, each scaled and cropped to the shape of its bucket.

    An image belongs to the bucket whose ratio of height to width is nearest to its own, on a scale of logarithms. The
    header of every image is read once for that. An image whose header cannot be read goes to the bucket nearest to a
    square; the image that replaces it in training is cropped to that shape.

    Args:
        images: Training images. Their transform must be able to make other shapes.
        shapes: Height and width of each bucket, in pixels.

    Attributes:
        shapes: Height and width of each bucket, in pixels.
        bucket: The bucket of each image, as a position in ``shapes``.

    Raises:
        InputError: If the transform makes only squares.
    """

    def __init__(self, images: ImageSet, shapes: Sequence[Shape]) -> None:
        super().__init__(images.source, images.transform, images.seed, True, images.least, images.captioned)
        self.shapes = list(shapes)
        self.crops = [images.transform.shaped(shape) for shape in self.shapes]
        if self.least is not None:
            leasts = [crop.least for crop in self.crops]
            self.least = None if None in leasts else max(least for least in leasts if least is not None)
        self.bucket = np.fromiter(self._buckets(), dtype=np.int64, count=len(self))

    def _buckets(self) -> Iterator[int]:
        for index in watched(range(len(self)), len(self), "buckets", lambda _: 1):
            try:
                shape = self.source.shape(index)
            except (DecodeError, OSError):
                shape = (1, 1)
            yield nearest(shape, self.shapes)

    @override
    def crop(self, index: int) -> Transform:
        return self.crops[int(self.bucket[index])]

    @property
    def counts(self) -> list[int]:
        """Images in each bucket."""
        return np.bincount(self.bucket, minlength=len(self.shapes)).tolist()

    @override
    def training_batches(self, steps: Steps, position: StreamPosition | None = None) -> TrainBatches:
        return BucketBatches(self, steps)

    @property
    @override
    def about(self) -> dict[str, int | str]:
        return {**super().about, "buckets": sha256(self.bucket.tobytes()).hexdigest()}


class BucketBatches(TrainBatches):
    """One rank's micro-batches where all images of a global batch are of one bucket.

    Each bucket is a stream of its own: its epochs' permutations one after the other, cut into global batches. Nothing
    is dropped, and over any number of epochs all images are seen equally often, but for the rest of each bucket that
    comes first in the next epoch. The order of the buckets is drawn anew for each epoch. The batch of a step is a
    function of seed and step alone, and the same for all processes.

    Args:
        images: The images in their buckets.
        steps: Which steps, and which part of each batch.
    """

    def __init__(self, images: BucketSet, steps: Steps) -> None:
        super().__init__(len(images), *steps)
        self.members = [np.flatnonzero(images.bucket == bucket) for bucket in range(len(images.shapes))]
        self.parts = [None if images.blocks is None else images.blocks.of(own) for own in self.members]
        self._order = lru_cache(maxsize=2 * len(self.members))(self._order_of)
        self._plan = lru_cache(maxsize=1)(self._plan_of)

    @override
    def whole(self, step: int) -> list[tuple[int, int]]:
        bucket, number = self.place(step)
        own = self.members[bucket]
        position = number * self.global_batch
        places = taken(len(own), position, self.global_batch, lambda epoch: self._order(bucket, epoch))
        return [(epoch, int(own[at])) for epoch, at in places]

    def place(self, step: int) -> tuple[int, int]:
        """The bucket of a step, and how many batches of it came before."""
        epoch = step * self.global_batch // self.count  # or a later one, since the rests of buckets come later
        while self._before(epoch + 1) <= step:
            epoch += 1
        bucket, number = self._plan(epoch)[step - self._before(epoch)].tolist()
        return bucket, number

    def _before(self, epoch: int) -> int:
        """Batches that come before an epoch."""
        return sum(self._ends(epoch))

    def _ends(self, epoch: int) -> list[int]:
        """Batches of each bucket that come before an epoch."""
        return [len(own) * epoch // self.global_batch for own in self.members]

    def _plan_of(self, epoch: int) -> Int64[np.ndarray, "batches 2"]:
        spans = list(zip(self._ends(epoch), self._ends(epoch + 1), strict=True))
        batches = [(bucket, at) for bucket, (first, end) in enumerate(spans) for at in range(first, end)]
        order = np.argsort(bit_stream(Purpose.BUCKETS, self.seed, epoch).random_raw(len(batches)), kind="stable")
        return np.array(batches, dtype=np.int64)[order]

    def _order_of(self, bucket: int, epoch: int) -> Int64[np.ndarray, " n"]:
        return epoch_order(len(self.members[bucket]), self.seed, epoch, self.parts[bucket], part=bucket)


def nearest(shape: Shape, shapes: Sequence[Shape]) -> int:
    """The position of the shape whose ratio of height to width is nearest; the first one of equals.

    Example:
        >>> nearest((300, 400), [(64, 96), (80, 80), (96, 64)])
        0
    """
    own = math.log(shape[0] / shape[1])
    return min(range(len(shapes)), key=lambda at: abs(math.log(shapes[at][0] / shapes[at][1]) - own))


def spread_shapes(number: int, side: int, step: int) -> list[Shape]:
    """Shapes with about as many pixels as a square, from twice as high as wide to twice as wide as high.

    Args:
        number: Number of shapes, at least 1.
        side: Side of the square, in pixels.
        step: Height and width are multiples of this number of pixels.

    Raises:
        InputError: If there are fewer different shapes.

    Example:
        >>> spread_shapes(3, side=64, step=8)
        [(88, 48), (64, 64), (48, 88)]
    """
    shapes = dict[Shape, None]()
    for at in range(number):
        ratio = WIDEST ** (1 - 2 * at / (number - 1)) if number > 1 else 1.0
        height, width = (max(1, round(one / step)) * step for one in (side * ratio**0.5, side / ratio**0.5))
        shapes[height, width] = None
    if len({height / width for height, width in shapes}) < number:
        raise InputError(
            f"{KEY}={number}: with sides that are multiples of {step} pixels there are only {len(shapes)} different "
            f"shapes about as large as image_size={side}; give {KEY}={len(shapes)}, or a list of [height, width]"
        )
    return list(shapes)


def bucketed(images: Images, shapes: Sequence[Shape]) -> Images:
    """Put training images into buckets.

    Args:
        images: Training images.
        shapes: Height and width of each bucket, in pixels; () = no buckets.

    Raises:
        InputError: If they are a stream, or a mixture, or made from sources that would stay as they are, or cannot
            have other shapes.
    """
    if not shapes:
        return images
    refusal = f"{KEY} needs one set of images that can be read in any order, and not {images.kind}; leave it out"
    listed = require_list(images, refusal)
    if listed.kind != ImageSet.kind:
        raise InputError(refusal)
    try:
        return BucketSet(listed, shapes)
    except InputError as error:
        raise InputError(f"{KEY}: {error}; leave it out") from None
