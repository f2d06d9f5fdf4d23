"""Pictures as people have them (files, PIL, numpy, torch) as the tensor that a tokenizer takes, and back."""

from collections.abc import Sequence
from io import BytesIO
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Real
from PIL import Image
from torch import Tensor

from imtok.data.reading.decode import decode_image, picture_pixels
from imtok.data.reading.transforms import CentreCrop
from imtok.errors import InputError
from imtok.files import write_bytes
from imtok.grid import to_picture
from imtok.pixels import from_range, to_float, to_uint8

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
OVERSHOOT = 0.25  # of a range: so far beyond it a resized image may go; further, and the range is another one

Picture = Image.Image | np.ndarray | Tensor
Range = tuple[int | float, int | float]


def preprocess(
    images: Picture | Sequence[Picture], size: int, value_range: Range | None = None, channels: int = 3
) -> Float[Tensor, "b c size size"]:
    """Images of any size as ``imtok eval`` reads files: upright, the centre square scaled to ``size``.

    Args:
        images: One image, a batch in one array, or a list of single images, whose sizes may differ. Each is a PIL image
            of any mode, a numpy array ``h w``, ``h w c`` or ``b h w c``, or a tensor ``h w``, ``c h w`` or
            ``b c h w``, with 1 (grey), 3 (RGB) or 4 channels (RGB and alpha, of which white shows through).
        size: Side of the result, in pixels; what a tokenizer was trained on is its ``image_size``.
        value_range: Black and white of images that are not uint8: (0, 1), (0, 255), (-1, 1) or others. It is never
            guessed: the values of a dark or a bright image do not tell.
        channels: Of the result: 1 (grey), 3 (RGB) or 4 (RGB and alpha), a tokenizer's ``channels``.

    Returns:
        The batch, in ``[-1, 1]``. Values are rounded to 256 levels, as those of files are; those of Pillow's 16-bit
        grey are kept where ``channels`` is 1.

    Raises:
        InputError: If an image is of another kind or shape, holds NaN, or does not lie in the range, or if the range is
            not given and must be.

    Example:
        >>> preprocess(Image.new("L", (90, 60), 255), size=32).shape
        torch.Size([1, 3, 32, 32])
        >>> preprocess([np.zeros((40, 50, 3)), torch.ones(3, 32, 32)], size=32, value_range=(0, 1)).mean((1, 2, 3))
        tensor([-1.,  1.])
    """
    if value_range is not None and not (len(value_range) == 2 and -float("inf") < value_range[0] < value_range[1]):
        raise InputError(f"value_range must be two numbers, those of black and of white, got {value_range}")
    crop, generator = CentreCrop(size), np.random.default_rng(0)  # which draws nothing
    several = images if isinstance(images, list | tuple) else [images]
    squares = [crop(one, generator) for image in several for one in _levels(image, value_range, channels)]
    if not squares:
        raise InputError("there must be at least one image, got none")
    return to_float(torch.stack(squares))


def postprocess(images: Float[Tensor, "b c h w"]) -> list[Image.Image]:
    """Images in ``[-1, 1]``, as a tokenizer decodes them, as PIL images.

    Raises:
        ValueError: If a value is NaN.

    Example:
        >>> [image.getpixel((0, 0)) for image in postprocess(torch.ones(1, 3, 2, 2))]
        [(255, 255, 255)]
    """
    return [to_picture(image) for image in to_uint8(images.detach())]


def load_picture(path: str | Path, size: int, channels: int = 3) -> Float[Tensor, "1 c size size"]:
    """Read a JPEG, PNG, WebP or AVIF as ``imtok eval`` does: upright, its centre square scaled to ``size``.

    Args:
        path: The file.
        size: Side of the result, in pixels; what a tokenizer was trained on is its ``image_size``.
        channels: 1 (grey), 3 (RGB) or 4 (RGB and alpha), a tokenizer's ``channels``.

    Returns:
        A batch of one image in ``[-1, 1]``.

    Raises:
        InputError: If there is no such file, or it is of another type or damaged.
        ValueError: If the size is not positive.
    """
    try:
        pixels = decode_image(Path(path).read_bytes(), str(path), channels=channels)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None
    return to_float(CentreCrop(size)(pixels, np.random.default_rng(0))[None])


def save_picture(image: Float[Tensor, "1 c h w"], path: str | Path) -> None:
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
    if image.shape[1] == 4 and suffix in (".jpg", ".jpeg"):
        raise InputError(f"{path}: a JPEG holds no alpha; give a name that ends in .png or .webp")
    data = BytesIO()
    postprocess(image)[0].save(data, {".jpg": "JPEG"}.get(suffix, suffix[1:]))
    try:
        write_bytes(Path(path), data.getvalue())
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror})") from None


def _levels(image: Any, value_range: Range | None, channels: int) -> list[Real[Tensor, "c h w"]]:
    """One image, or a batch of them, as pixels of files."""
    if isinstance(image, Image.Image):
        if image.mode not in ("I", "F"):  # which are grey in numbers of any range
            return [picture_pixels(image, channels=channels)]
        image = np.asarray(image)
    if isinstance(image, np.ndarray):
        shape, axes = image.shape, "numpy array must be h w, h w c or b h w c"
        last = image[..., None] if image.ndim == 2 else image
    elif isinstance(image, Tensor):
        shape, axes = tuple(image.shape), "tensor must be h w, c h w or b c h w"
        planes = image.detach().cpu()[None] if image.ndim == 2 else image.detach().cpu()
        exact = planes.double() if planes.is_floating_point() else planes  # numpy has no bfloat16
        last = exact.movedim(-3, -1).numpy() if planes.ndim > 2 else exact.numpy()
    else:
        raise InputError(f"an image must be a PIL image, a numpy array or a tensor, got {type(image).__name__}")
    if last.ndim not in (3, 4) or last.shape[-1] not in (1, 3, 4) or 0 in last.shape:
        raise InputError(f"an image that is a {axes} with 1, 3 or 4 channels, got shape {list(shape)}")
    pixels = _as_uint8(last, value_range, str(image.dtype).removeprefix("torch."))
    singles = pixels.reshape(-1, *last.shape[-3:])
    pictures = (Image.fromarray(one[..., 0] if one.shape[-1] == 1 else one) for one in singles)
    return [picture_pixels(picture, channels=channels) for picture in pictures]


def _as_uint8(values: np.ndarray, value_range: Range | None, kind: str) -> np.ndarray:
    """Numbers as the nearest of 256 levels."""
    if values.dtype == np.uint8 and value_range in (None, (0, 255)):
        return np.ascontiguousarray(values)
    if values.dtype.kind not in "fiu":
        raise InputError(f"an image must hold real numbers, got {kind}")
    low, high = float(values.min()), float(values.max())
    if not isfinite(low + high):
        raise InputError("an image must hold numbers, got NaN or infinity")
    if value_range is None:
        raise InputError(
            f"value_range must be given for an image of {kind}: its values (from {low:.4g} to {high:.4g}) "
            "do not tell what black and white are; give value_range=(0, 1), (0, 255) or (-1, 1)"
        )
    room = OVERSHOOT * (value_range[1] - value_range[0])
    if low < value_range[0] - room or high > value_range[1] + room:
        raise InputError(
            f"an image must lie in value_range={value_range}, got values from {low:.4g} to {high:.4g}; give the range "
            "that it has"
        )
    return to_uint8(from_range(torch.from_numpy(values.astype(np.float64)), value_range)).numpy()
