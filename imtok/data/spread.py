"""Some of many images, evenly over all of them: neighbours in a data set are often of one class."""

import numpy as np
from jaxtyping import Int64

from imtok.data.images import ImageSet, Subset
from imtok.data.stream import ImageStream


def places(most: int, count: int) -> Int64[np.ndarray, " n"]:
    """The numbers of at most so many of ``count`` things, evenly over them, in ascending order.

    Example:
        >>> places(3, 10), places(3, 2)
        (array([0, 3, 6]), array([0, 1]))
    """
    most = min(most, count)
    return np.arange(most, dtype=np.int64) * count // max(most, 1)


def spread(images: ImageSet | ImageStream, most: int) -> ImageSet | ImageStream:
    """At most so many of the images, evenly over a list of them. Of a stream all."""
    if not isinstance(images, ImageSet) or len(images) <= most:
        return images
    return ImageSet(Subset(images.source, places(most, len(images))), images.transform, captioned=images.captioned)
