"""Choose images from all over a data set, since neighbours in a data set are often of one class."""

import numpy as np
from jaxtyping import Int64


def places(most: int, count: int) -> Int64[np.ndarray, " n"]:
    """At most ``most`` positions among ``count``, evenly spread and in ascending order.

    Example:
        >>> places(3, 10), places(3, 2)
        (array([0, 3, 6]), array([0, 1]))
    """
    most = min(most, count)
    return np.arange(most, dtype=np.int64) * count // max(most, 1)
