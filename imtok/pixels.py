"""Pixels at imtok's edges (uint8) and inside it (float in ``[-1, 1]``)."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

FARTHEST = 2.0  # from 0: beyond it, a value is no overshoot of an image in [-1, 1]


def to_float(image: UInt8[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Levels 0 to 255 as float32 in ``[-1, 1]``."""
    return image.to(torch.float32, copy=True).div_(127.5).sub_(1)  # in place: new memory costs more than the sums


def to_range(image: Float[Tensor, "*shape"], value_range: tuple[float, float]) -> Float[Tensor, "*shape"]:
    """An image in ``[-1, 1]`` as a net wants it that was trained on ``value_range``."""
    low, high = value_range
    return image if (low, high) == (-1, 1) else (image + 1) * ((high - low) / 2) + low


def from_range(image: Float[Tensor, "*shape"], value_range: tuple[float, float]) -> Float[Tensor, "*shape"]:
    """The inverse of :func:`to_range`."""
    low, high = value_range
    return image if (low, high) == (-1, 1) else (image - low) * (2 / (high - low)) - 1


def to_uint8(image: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """The nearest level of each value; ``to_float`` undone exactly on all 256 levels.

    Values outside ``[-1, 1]`` are clamped first (a cast alone would wrap them around), and none is truncated, which
    would darken a quarter of the levels by one.

    Raises:
        ValueError: If a value is NaN: as a level it would look like black.

    Example:
        >>> to_uint8(torch.tensor([-1.5, -1.0, 0.0, 1.0]))
        tensor([  0,   0, 128, 255], dtype=torch.uint8)
    """
    if image.isnan().any():
        raise ValueError("pixels must be numbers to become uint8, got NaN")
    exact = image if image.dtype == torch.float64 else image.float()
    return ((exact.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def check_image(image: Tensor) -> None:
    """Refuse what is certainly no image in ``[-1, 1]``: an encoder would make valid ids of it.

    Resizing overshoots a little. An image in [0, 1] lies in the range, so nothing tells it from a bright one.

    Raises:
        ValueError: For whole numbers, and for values beyond 2.
    """
    cure = "give tokenizer.preprocess(image), or image / 127.5 - 1 (imtok.pixels.to_float) for levels from 0 to 255"
    if not image.is_floating_point():
        raise ValueError(f"images must be floats in [-1, 1], got {image.dtype}; {cure}")
    if not image.numel():
        return
    low, high = (value.item() for value in image.detach().aminmax())
    if max(abs(low), abs(high)) > FARTHEST:  # never for NaN
        other = "undo another normalisation, such as by mean and deviation"
        raise ValueError(f"images must lie in [-1, 1], got values from {low:.4g} to {high:.4g}; {cure}, or {other}")
