"""A picture in a file as the tensor that a tokenizer takes, and back."""

from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import Float
from torch import Tensor

from imtok.data.decode import decode_image
from imtok.data.transforms import CentreCrop
from imtok.errors import InputError
from imtok.files import write_bytes
from imtok.grid import to_picture
from imtok.pixels import to_float, to_uint8

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def load_picture(path: str | Path, size: int) -> Float[Tensor, "1 3 size size"]:
    """Read a JPEG, PNG, WebP or AVIF as ``imtok eval`` does: upright, RGB, its centre square scaled to ``size``.

    Args:
        path: The file.
        size: Side of the result, in pixels; what a tokenizer was trained on is its ``image_size``.

    Returns:
        A batch of one image in ``[-1, 1]``.

    Raises:
        InputError: If there is no such file, or it is of another type or damaged.
        ValueError: If the size is not positive.
    """
    try:
        pixels = decode_image(Path(path).read_bytes(), str(path))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None
    return to_float(CentreCrop(size)(pixels, np.random.default_rng(0)))[None]


def save_picture(image: Float[Tensor, "1 3 h w"], path: str | Path) -> None:
    """Write a batch of one image as a PNG, JPEG or WebP, as the name says; the file appears whole or not at all.

    Args:
        image: In ``[-1, 1]``, as :meth:`imtok.tokenizer.Tokenizer.decode` gives it.
        path: The file; one that is there is replaced.

    Raises:
        InputError: If the name ends in something else, or the file cannot be written.
        ValueError: If there is not exactly one image, or a value is NaN.

    Example:
        >>> import tempfile
        >>> from torch import zeros
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_picture(zeros(1, 3, 40, 60), f"{folder}/grey.png")
        ...     load_picture(f"{folder}/grey.png", 16).shape
        torch.Size([1, 3, 16, 16])
    """
    if len(image) != 1:
        raise ValueError(f"image must be a batch of one image, got {len(image)}; give images[:1]")
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{path} must end in one of {', '.join(SUFFIXES)}")
    data = BytesIO()
    to_picture(to_uint8(image[0])).save(data, {".jpg": "JPEG"}.get(suffix, suffix[1:]))
    try:
        write_bytes(Path(path), data.getvalue())
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror})") from None
