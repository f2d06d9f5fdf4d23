"""Images that somebody else has decoded, to pixels: of Pillow, numpy or torch."""

from typing import Any

import numpy as np
from jaxtyping import Real
from PIL import Image
from torch import Tensor

from imtok.data.reading.decode import DecodeError, picture_pixels
from imtok.pixels import CHANNELS


def decoded_pixels(
    value: Any, name: str, max_pixels: int, background: tuple[int, int, int], channels: int = 3
) -> Real[Tensor, "c h w"]:
    """RGB pixels of a decoded image.

    Args:
        value: An image of Pillow; or an array or tensor of grey, RGB or RGBA values, uint8 in [0, 255] or floats in
            [0, 1]. Where first and last axis could both be channels, those of an array are the last and those of a
            tensor the first.
        name: Of the image, for messages.
        max_pixels: More are refused.
        background: What shows through transparent pixels, red, green and blue in [0, 255].
        channels: 1, 3 or 4, as :func:`~imtok.data.reading.decode.decode_image` has them.

    Raises:
        DecodeError: That names the image and says what is wrong with it.

    Example:
        >>> decoded_pixels(np.ones((2, 4, 1), np.float32), "white", 99, (0, 0, 0)).shape
        torch.Size([3, 2, 4])
    """
    try:
        if isinstance(value, Tensor):
            value = value.detach().cpu()
            last = value.ndim == 3 and value.shape[0] not in CHANNELS
            value = _picture((value.float() if value.is_floating_point() else value).numpy(), last)
        elif isinstance(value, np.ndarray):
            value = _picture(value, value.ndim == 3 and value.shape[-1] in CHANNELS)
        if not isinstance(value, Image.Image):
            raise ValueError(f"is {type(value).__name__}, not bytes, an image of Pillow, an array or a tensor")
        return picture_pixels(value, max_pixels, background, channels)
    except Exception as error:  # Pillow reads files late, and raises many kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].removeprefix("a PIL image: ")
        raise DecodeError(f"{name}: {reason}") from None


def _picture(values: np.ndarray, last: bool) -> Image.Image:
    """Values with channels on the ``last`` axis or the first one, or none, as an image."""
    if values.ndim == 3 and not last:
        values = np.moveaxis(values, 0, -1)
    if values.ndim == 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if not values.size or values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[-1] not in CHANNELS):
        raise ValueError(f"has shape {tuple(values.shape)}, not that of a grey, RGB or RGBA image")
    if values.dtype.kind == "f":
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
            raise ValueError(f"holds floats from {values.min():g} to {values.max():g}; they must lie in [0, 1]")
        values = np.rint(values.astype(np.float32) * 255).astype(np.uint8)
    if values.dtype != np.uint8:
        raise ValueError(f"holds {values.dtype}; pixels must be uint8 in [0, 255] or floats in [0, 1]")
    return Image.fromarray(np.ascontiguousarray(values))
