"""JPEG, WebP and AVIF at their real number of bytes: what tokens are held against."""

import io
from functools import lru_cache

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Real
from PIL import Image, features
from torch import Tensor

from imtok.grid import to_picture

QUALITIES: dict[str, tuple[int, ...]] = {"jpeg": (1, 5, 10, 20, 50), "webp": (0, 5, 20, 50), "avif": (0, 30, 60)}


def available() -> dict[str, tuple[int, ...]]:
    """The codecs that Pillow has here, and the qualities tried of each."""
    return {name: qualities for name, qualities in QUALITIES.items() if name == "jpeg" or features.check(name)}


def compress(image: Real[Tensor, "c h w"], codec: str, quality: int) -> tuple[Real[Tensor, "c h w"], int]:
    """An image through a codec, and how many bytes it took.

    Args:
        image: Grey or RGB levels; grey ones are rounded to 8 bits, which is what codecs take.
        codec: "jpeg", "webp" or "avif".
        quality: The codec's own scale, 0 to 100.

    Example:
        >>> decoded, size = compress(torch.zeros(3, 16, 16, dtype=torch.uint8), "jpeg", 50)
        >>> decoded.shape, size > header_bytes("jpeg", 50)
        (torch.Size([3, 16, 16]), True)
    """
    picture = to_picture(image)
    data = _encode(picture, codec, quality)
    pixels = torch.from_numpy(np.array(Image.open(io.BytesIO(data)).convert(picture.mode)))
    return rearrange(pixels, "h w ... -> (...) h w").to(image.dtype), len(data)


@lru_cache
def header_bytes(codec: str, quality: int) -> int:
    """Bytes of an image of one pixel, less one: what a codec spends before it says anything."""
    return len(_encode(Image.new("RGB", (1, 1)), codec, quality)) - 1


def _encode(picture: Image.Image, codec: str, quality: int) -> bytes:
    buffer = io.BytesIO()
    options = {"jpeg": {"optimize": True}, "webp": {"method": 6}, "avif": {"speed": 6}}[codec]
    picture.save(buffer, codec, quality=quality, **options)
    return buffer.getvalue()
