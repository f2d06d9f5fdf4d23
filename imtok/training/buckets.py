"""``data.buckets``: read the shapes of training images from a config, and check that a tokenizer can read them."""

from typing import Any

from imtok.data.order.buckets import KEY, spread_shapes
from imtok.data.reading.transforms import Shape
from imtok.errors import InputError
from imtok.tokenizer import Tokenizer
from imtok.whole import size_step


def read_buckets(section: Any, tokenizer: Tokenizer, side: int) -> tuple[Shape, ...]:
    """The shapes that ``data.buckets`` asks for, by a list of ``[height, width]`` or by a number.

    Args:
        section: The value in the config; None = images of one size.
        tokenizer: The tokenizer to train.
        side: The run's ``image_size``, in pixels.

    Raises:
        InputError: If the value is neither, or the tokenizer cannot read one of the shapes.
    """
    if section is None:
        return ()
    if tokenizer.space is not None and tokenizer.space.cache is not None:
        raise InputError(f"{KEY} and space.cache exclude each other: the stored maps are of squares; leave one out")
    if isinstance(section, int) and not isinstance(section, bool) and section >= 1:
        try:
            step = size_step(tokenizer, side)
        except InputError as error:
            raise InputError(f"{KEY}={section}: {error}; leave it out, or take another encoder") from None
        shapes = spread_shapes(section, side, step)
    elif isinstance(section, list) and section and all(map(_is_shape, section)):
        shapes = [(height, width) for height, width in section]
    else:
        raise InputError(f"{KEY} must be a number of shapes, or a list of [height, width] in pixels, got {section!r}")
    seen = dict[float, Shape]()
    for height, width in shapes:
        other = seen.setdefault(height / width, (height, width))
        if other != (height, width) or shapes.count((height, width)) > 1:
            raise InputError(
                f"{KEY} must have each shape once, since an image goes to the nearest one, got {name_shape(other)} and "
                f"{name_shape((height, width))}; leave one out"
            )
        try:
            tokenizer.num_tokens((height, width))
        except ValueError as error:
            raise InputError(
                f"{KEY}: the tokenizer cannot read images of {name_shape((height, width))} pixels (height x width): "
                f"{error}"
            ) from None
    return tuple(shapes)


def name_shape(shape: Shape) -> str:
    """Height and width in words."""
    return f"{shape[0]} x {shape[1]}"


def _is_shape(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(isinstance(side, int) and not isinstance(side, bool) and side >= 1 for side in value)
    )
