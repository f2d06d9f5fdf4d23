"""Pillow's bicubic scaling of 8-bit colours: the same bytes, of the part that is wanted alone, in less time.

Pillow scales rows, rounds them to bytes, and scales columns. A byte is a sum of whole numbers: pixels times weights of
22 bits. torch's ``embedding_bag`` takes such sums of whole rows at once. It does so in float32, which holds whole
numbers up to 2**24. So the upper and the lower half of the weights are summed apart, and nothing is rounded on the way.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64, Real, UInt8
from torch import Tensor
from torch.nn import functional as F

Shape = tuple[int, int]  # height and width
BITS, LOWER = 22, 11  # of a weight, and of its lower half


@dataclass(frozen=True)
class _Line:
    """What a row or column of the result reads: pixels from ``first`` to ``last``, and of these ``index``, weighted.

    The upper halves of all weights come first, then the lower ones; both are over ``2**LOWER``.
    """

    first: int
    last: int
    index: Int64[Tensor, "n2 taps"]
    weights: Float32[Tensor, "n2 taps"]


def bicubic_part(
    image: UInt8[Tensor, "c height width"], shape: Shape, place: Shape, size: Shape
) -> UInt8[Tensor, "c h w"]:
    """What Pillow makes of an image, and of that a part.

    Args:
        image: An image, at most seven times as high and wide as the result.
        shape: Height and width that the whole image is scaled to.
        place: Top and left of the part.
        size: Height and width of the part.

    Example:
        >>> from PIL import Image
        >>> pixels = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
        >>> scaled = Image.fromarray(pixels).resize((7, 3), Image.Resampling.BICUBIC)
        >>> part = bicubic_part(torch.from_numpy(pixels).permute(2, 0, 1), (3, 7), (1, 2), (2, 4))
        >>> np.array_equal(part.permute(1, 2, 0), np.asarray(scaled)[1:, 2:6])
        True
    """
    down, across = (_line(*sides) for sides in zip(image.shape[-2:], shape, place, size, strict=True))
    made = np.empty((len(image), *size), np.uint8)
    for channel, plane in enumerate(image[:, down.first : down.last, across.first : across.last].numpy()):
        made[channel] = _summed(_summed(plane.T, across).T, down)  # one after the other, so that caches hold them
    return torch.from_numpy(made)


def _line(old: int, new: int, first: int, count: int) -> _Line:
    """Pixels and weights of ``count`` of ``new`` pixels that are made of ``old`` ones."""
    scale = old / new
    stretch = max(scale, 1.0)
    reach = 2 * stretch
    centre = (np.arange(first, first + count) + 0.5) * scale
    begin = np.maximum((centre - reach + 0.5).astype(np.int64), 0)
    end = np.minimum((centre + reach + 0.5).astype(np.int64), old)
    index = begin[:, None] + np.arange(math.ceil(reach) * 2 + 1)
    shares = _filter((index - centre[:, None] + 0.5) * (1.0 / stretch))
    shares[index >= end[:, None]] = 0
    shares /= np.cumsum(shares, 1)[:, -1:]  # which adds one after the other, as Pillow does
    weights = np.trunc(shares * 2**BITS + np.copysign(0.5, shares)).astype(np.int64)
    low, high = int(begin[0]), int(end[-1])
    halves = np.concatenate([weights >> LOWER, weights & 2**LOWER - 1]).astype(np.float32) / 2**LOWER
    index = np.minimum(index, high - 1) - low
    return _Line(low, high, torch.from_numpy(np.concatenate([index, index])), torch.from_numpy(halves))


def _filter(distance: Float64[np.ndarray, "n taps"]) -> Float64[np.ndarray, "n taps"]:
    """The cubic of Keys with a = -1/2, in Pillow's order of operations."""
    x = np.abs(distance)
    return np.where(x < 1, (1.5 * x - 2.5) * x * x + 1, np.where(x < 2, (((x - 5) * x + 8) * x - 4) * -0.5, 0.0))


def _summed(pixels: Real[np.ndarray, "n m"], line: _Line) -> Float32[np.ndarray, "k m"]:
    """Weighted sums of rows of pixels, rounded to whole levels."""
    table = torch.from_numpy(np.ascontiguousarray(pixels, np.float32))
    upper, lower = F.embedding_bag(line.index, table, per_sample_weights=line.weights, mode="sum").chunk(2)
    level = upper.add_(lower.floor_(), alpha=2.0**-LOWER)  # what is cut off decides about no rounding
    return level.add_(0.5).floor_().clamp_(0, 255).numpy()
