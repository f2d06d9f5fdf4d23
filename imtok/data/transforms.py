"""From an image of any size to a square of the size that a tokenizer reads; on levels from 0 to 255."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Real
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from typing_extensions import override

LONGEST = 16  # long side over short side, beyond which CentreCrop cuts first: 1 x 60000 must not become 256 x 15 M


class Transform(ABC):
    """What an :class:`~imtok.data.images.ImageSet` does to each image.

    Attributes:
        size: Side of the squares that it makes, in pixels.
        least: Short side, in pixels, above which an image has more detail than it ever shows; None = all shows.
    """

    size: int
    least: int | None = None

    @abstractmethod
    def __call__(self, image: Real[Tensor, "c h w"], generator: np.random.Generator) -> Real[Tensor, "c h2 w2"]:
        """A square of ``size`` pixels, or the whole image; ``generator`` is the only source of randomness."""


class RandomScaleCrop(Transform):
    """A square at a random place and scale, for training.

    The side of the square is drawn log-uniformly between ``scale[0]`` and ``scale[1]`` of the image's short side, but
    not below ``size`` pixels: an image is enlarged only where it is too small.

    Args:
        size: Side of the result, in pixels.
        scale: Smallest and largest side, as fractions of the short side, in [0, 1]. (0, 1) is every scale from native
            to the whole short side; (1, 1) is the largest square at a random place.
        flip: Mirror every other image, left to right.

    Raises:
        ValueError: If the size or the scale is out of range.

    Example:
        >>> crop = RandomScaleCrop(32, scale=(0.5, 1.0))
        >>> crop(torch.zeros(3, 100, 80, dtype=torch.uint8), np.random.default_rng(0)).shape
        torch.Size([3, 32, 32])
    """

    def __init__(self, size: int, scale: Sequence[float] = (0.0, 1.0), flip: bool = True) -> None:
        check_size(size)
        check_scale(scale)
        self.size = size
        self.scale = (float(scale[0]), float(scale[1]))
        self.flip = flip
        self.least = math.ceil(size / self.scale[0]) if self.scale[0] else None

    @override
    def __call__(self, image: Real[Tensor, "c h w"], generator: np.random.Generator) -> Real[Tensor, "c size size"]:
        """Crop, resize with antialiasing and perhaps mirror."""
        zoom, down, across, mirror = generator.random(4)
        height, width = image.shape[-2:]
        short = min(height, width)
        largest = max(1.0, self.scale[1] * short)
        smallest = min(max(self.size, self.scale[0] * short), largest)
        side = min(short, round(smallest * (largest / smallest) ** zoom))
        top, left = int(down * (height - side + 1)), int(across * (width - side + 1))
        crop = image[:, top : top + side, left : left + side]
        if side != self.size:
            crop = _resized(crop, self.size)
        if self.flip and mirror < 0.5:
            crop = crop.flip(-1)
        return crop.contiguous()


class CentreCrop(Transform):
    """The centre square at the scale of the short side, for evaluation: ADM's crop (arXiv 2105.05233), to the pixel.

    Halving by box filter while the short side is at least twice ``size``, then bicubic to ``size``, then the centre.
    An image more than 16 times as long as wide is first cut to that, so that none grows without bound.

    Args:
        size: Side of the result, in pixels.
        flip: Mirror every other image, left to right, for training on fixed crops.

    Raises:
        ValueError: If the size is not positive.

    Example:
        >>> CentreCrop(32)(torch.zeros(3, 100, 80, dtype=torch.uint8), np.random.default_rng(0)).shape
        torch.Size([3, 32, 32])
    """

    def __init__(self, size: int, flip: bool = False) -> None:
        check_size(size)
        self.size, self.flip = size, flip

    @override
    def __call__(self, image: Real[Tensor, "c h w"], generator: np.random.Generator) -> Real[Tensor, "c size size"]:
        """Scale, crop and perhaps mirror; draws nothing from ``generator`` unless it may mirror."""
        if image.shape[-2:] != (self.size, self.size):
            longest = LONGEST * min(image.shape[-2:])
            image = _centre(scale_short_side(_centre(image, longest, longest), self.size), self.size, self.size)
        return (image.flip(-1) if self.flip and generator.random() < 0.5 else image).contiguous()


class WholeImage(Transform):
    """Every image as it is, of whatever height and width.

    Args:
        size: What the tokenizer was trained on, for those who ask.

    Example:
        >>> WholeImage(32)(torch.zeros(3, 100, 80, dtype=torch.uint8), np.random.default_rng(0)).shape
        torch.Size([3, 100, 80])
    """

    def __init__(self, size: int) -> None:
        check_size(size)
        self.size = size

    @override
    def __call__(self, image: Real[Tensor, "c h w"], generator: np.random.Generator) -> Real[Tensor, "c h w"]:
        """The image; draws nothing from ``generator``."""
        return image.contiguous()


class RandomScaledCrop(Transform):
    """A square at a random place of the whole image at a random scale, for training: ADM's, which LlamaGen trains on.

    The short side is drawn evenly from ``size / scale[1]`` to ``size / scale[0]`` pixels, and the image scaled to it as
    :class:`CentreCrop` does; to the pixel what ``random_crop_arr`` makes of the same draws. Small images are enlarged.
    Slower than :class:`RandomScaleCrop`, which scales only what shows.

    Args:
        size: Side of the result, in pixels.
        scale: Smallest and largest part of the short side that shows, in (0, 1]; (0.8, 1) in LlamaGen (arXiv
            2406.06525).
        flip: Mirror every other image, left to right.

    Raises:
        ValueError: If the size or the scale is out of range.

    Example:
        >>> RandomScaledCrop(32)(torch.zeros(3, 100, 80, dtype=torch.uint8), np.random.default_rng(0)).shape
        torch.Size([3, 32, 32])
    """

    def __init__(self, size: int, scale: Sequence[float] = (0.8, 1.0), flip: bool = True) -> None:
        check_size(size)
        check_scale(scale)
        if scale[0] <= 0:
            raise ValueError(f"scale of crop=adm must be above 0, got {list(scale)}")
        self.size, self.flip = size, flip
        self.shortest, self.longest = math.ceil(size / scale[1]), math.ceil(size / scale[0])
        self.least = self.longest

    @override
    def __call__(self, image: Real[Tensor, "c h w"], generator: np.random.Generator) -> Real[Tensor, "c size size"]:
        """Scale, crop and perhaps mirror."""
        zoom, down, across, mirror = generator.random(4)
        short = self.shortest + int(zoom * (self.longest - self.shortest + 1))
        longest = LONGEST * min(image.shape[-2:])
        scaled = scale_short_side(_centre(image, longest, longest), short)
        height, width = scaled.shape[-2:]
        top, left = int(down * (height - self.size + 1)), int(across * (width - self.size + 1))
        crop = scaled[:, top : top + self.size, left : left + self.size]
        return (crop.flip(-1) if self.flip and mirror < 0.5 else crop).contiguous()


def scale_short_side(image: Real[Tensor, "c height width"], short: int) -> Real[Tensor, "c h w"]:
    """ADM's scaling (arXiv 2105.05233): halved by box filter while it can be, then bicubic to the short side asked for.

    Args:
        image: Any image.
        short: Its new short side, in pixels.
    """
    picture = picture_of(image)
    while min(picture.size) >= 2 * short:
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    factor = short / min(picture.size)
    size = (round(picture.width * factor), round(picture.height * factor))
    return pixels_of(picture.resize(size, Image.Resampling.BICUBIC))


def picture_of(image: Real[Tensor, "c h w"]) -> Image.Image:
    """Pixels as an image that Pillow resizes as it should: grey without rounding, colours by their alpha."""
    return Image.fromarray(rearrange(image, "c h w -> h w c").squeeze(-1).contiguous().numpy())


def pixels_of(picture: Image.Image) -> Real[Tensor, "c h w"]:
    """The inverse of :func:`picture_of`; grey that was resized is held in [0, 255]."""
    pixels = torch.from_numpy(np.array(picture))
    return rearrange(pixels, "h w c -> c h w") if pixels.ndim == 3 else pixels.clamp(0, 255)[None]


def _resized(image: Real[Tensor, "c h w"], size: int) -> Real[Tensor, "c size size"]:
    """Bicubic with antialiasing."""
    if len(image) == 4:  # a transparent pixel must not colour its neighbours, of which Pillow takes care
        return pixels_of(picture_of(image).resize((size, size), Image.Resampling.BICUBIC))
    made = interpolate(image[None], (size, size), mode="bicubic", antialias=True)[0]
    return made.clamp(0, 255) if made.is_floating_point() else made


def check_size(size: int) -> None:
    """Raise ValueError unless ``size`` can be the side of an image."""
    if size < 1:
        raise ValueError(f"image size must be at least 1, got {size}")


def check_scale(scale: Sequence[float]) -> None:
    """Raise ValueError unless ``scale`` is a range of fractions."""
    if len(scale) != 2 or not 0 <= scale[0] <= scale[1] <= 1 or scale[1] == 0 or not all(map(math.isfinite, scale)):
        raise ValueError(f"scale must be two fractions of the short side, 0 <= low <= high <= 1, got {list(scale)}")


def _centre(image: Tensor, height: int, width: int) -> Tensor:
    """The centre of an image, at most so high and wide."""
    top, left = max(0, image.shape[-2] - height) // 2, max(0, image.shape[-1] - width) // 2
    return image[:, top : top + height, left : left + width]
