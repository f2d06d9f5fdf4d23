"""From an image of any size to a square of the size that a tokenizer reads; on levels from 0 to 255."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float64, Real
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from typing_extensions import override

from imtok.data.reading.bicubic import bicubic_part
from imtok.errors import InputError

Shape = tuple[int, int]  # height and width
Window = tuple[float, float, float, float]  # scale down and across, then pixels that are cut off at top and left
TALL = 1.5  # times the width, beyond which some versions of Pillow scale columns first
SMALL = 160  # pixels of a side, below which Pillow is as fast as sums of rows
LONGEST = 16  # long side over short side, beyond which CentreCrop cuts first: 1 x 60000 must not become 256 x 15 M


class Transform(ABC):
    """What an :class:`~imtok.data.images.ImageSet` does to each image.

    Attributes:
        size: Side of the squares that it makes, in pixels, or the shorter side of rectangles.
        least: Short side, in pixels, above which an image has more detail than it ever shows; None = all shows.
    """

    size: int
    least: int | None = None

    @abstractmethod
    def __call__(self, image: Real[Tensor, "c h w"], generator: np.random.Generator) -> Real[Tensor, "c h2 w2"]:
        """A square of ``size`` pixels, or the whole image; ``generator`` is the only source of randomness."""

    def shaped(self, shape: Shape) -> "Transform":
        """The same transform for another height and width.

        Raises:
            InputError: If it makes only squares.
        """
        raise InputError(f"{type(self).__name__} makes only squares, and no images of {shape[0]} x {shape[1]} pixels")

    def window(self, shape: Shape) -> Window:
        """The part of an image of a height and width that is shown, for transforms without random numbers.

        Raises:
            InputError: If the transform cannot tell.
        """
        raise InputError(f"{type(self).__name__} cannot tell where boxes (data.boxes) lie; give crop=none")

    def placed(self, boxes: Float64[np.ndarray, "n 4"], shape: Shape) -> Float64[np.ndarray, "n 4"]:
        """Boxes (left, top, right, bottom) of an image of a height and width, as :meth:`window` shows them."""
        down, across, top, left = self.window(shape)
        return boxes * [across, down, across, down] - [left, top, left, top]


class RandomScaleCrop(Transform):
    """A square at a random place and scale, for training.

    The side of the square is drawn log-uniformly between ``scale[0]`` and ``scale[1]`` of the image's short side, but
    not below ``size`` pixels: an image is enlarged only where it is too small. A rectangle is drawn in the same way,
    by its height, between fractions of the largest one of its shape that the image holds.

    Args:
        size: Side of the result, in pixels, or its height and width.
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

    def __init__(self, size: int | Shape, scale: Sequence[float] = (0.0, 1.0), flip: bool = True) -> None:
        self.shape = shape_of(size)
        check_scale(scale)
        self.size = min(self.shape)
        self.scale = (float(scale[0]), float(scale[1]))
        self.flip = flip
        self.least = math.ceil(max(self.shape) / self.scale[0]) if self.scale[0] else None

    @override
    def shaped(self, shape: Shape) -> "RandomScaleCrop":
        return RandomScaleCrop(shape, self.scale, self.flip)

    @override
    def __call__(self, image: Real[Tensor, "c height width"], generator: np.random.Generator) -> Real[Tensor, "c h w"]:
        """Crop, resize with antialiasing and perhaps mirror."""
        zoom, down, across, mirror = generator.random(4)
        height, width = image.shape[-2:]
        across_of_down = self.shape[1] / self.shape[0]
        most = min(height, width / across_of_down)  # height of the largest crop of this shape
        largest = max(1.0, self.scale[1] * most)
        smallest = min(max(self.shape[0], self.scale[0] * most), largest)
        drawn = smallest * (largest / smallest) ** zoom
        rows, columns = min(height, round(drawn)), min(width, max(1, round(drawn * across_of_down)))
        top, left = int(down * (height - rows + 1)), int(across * (width - columns + 1))
        crop = image[:, top : top + rows, left : left + columns]
        if (rows, columns) != self.shape:
            crop = _resized(crop, self.shape)
        if self.flip and mirror < 0.5:
            crop = crop.flip(-1)
        return crop.contiguous()


class CentreCrop(Transform):
    """The centre square at the scale of the short side, for evaluation: ADM's crop (arXiv 2105.05233), to the pixel.

    Halving by box filter while the short side is at least twice ``size``, then bicubic to ``size``, then the centre.
    An image more than 16 times as long as wide is first cut to that, so that none grows without bound. Of a rectangle
    both sides are covered instead of the short one.

    Args:
        size: Side of the result, in pixels, or its height and width.
        flip: Mirror every other image, left to right, for training on fixed crops.

    Raises:
        ValueError: If the size is not positive.

    Example:
        >>> CentreCrop(32)(torch.zeros(3, 100, 80, dtype=torch.uint8), np.random.default_rng(0)).shape
        torch.Size([3, 32, 32])
    """

    def __init__(self, size: int | Shape, flip: bool = False) -> None:
        self.shape = shape_of(size)
        self.size, self.flip = min(self.shape), flip

    @override
    def shaped(self, shape: Shape) -> "CentreCrop":
        return CentreCrop(shape, self.flip)

    @override
    def __call__(self, image: Real[Tensor, "c height width"], generator: np.random.Generator) -> Real[Tensor, "c h w"]:
        """Scale, crop and perhaps mirror; draws nothing from ``generator`` unless it may mirror."""
        if image.shape[-2:] != self.shape:
            longest = LONGEST * min(image.shape[-2:])
            kept, (rows, columns) = _centre(image, longest, longest), self.shape
            height, width = covering_size((kept.shape[-2], kept.shape[-1]), self.shape)
            image = scale_to_cover(kept, self.shape, ((height - rows) // 2, (width - columns) // 2), self.shape)
        return (image.flip(-1) if self.flip and generator.random() < 0.5 else image).contiguous()

    @override
    def window(self, shape: Shape) -> Window:
        if self.flip:
            return super().window(shape)
        if shape == self.shape:
            return 1.0, 1.0, 0.0, 0.0
        kept = min(shape[0], LONGEST * min(shape)), min(shape[1], LONGEST * min(shape))
        scaled = covering_size(kept, self.shape)
        down, across = scaled[0] / kept[0], scaled[1] / kept[1]
        top, left = ((whole - part) // 2 for whole, part in zip(shape, kept, strict=True))
        cut = [(whole - part) // 2 for whole, part in zip(scaled, self.shape, strict=True)]
        return down, across, top * down + cut[0], left * across + cut[1]


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

    @override
    def window(self, shape: Shape) -> Window:
        return 1.0, 1.0, 0.0, 0.0


class RandomScaledCrop(Transform):
    """A square at a random place of the whole image at a random scale, for training: ADM's, which LlamaGen trains on.

    The short side is drawn evenly from ``size / scale[1]`` to ``size / scale[0]`` pixels, and the image scaled to it as
    :class:`CentreCrop` does; to the pixel what ``random_crop_arr`` makes of the same draws. Small images are enlarged.
    Slower than :class:`RandomScaleCrop`, which scales only what shows. Of a rectangle both sides are covered.

    Args:
        size: Side of the result, in pixels, or its height and width.
        scale: Smallest and largest part of the short side that shows, in (0, 1]; (0.8, 1) in LlamaGen (arXiv
            2406.06525).
        flip: Mirror every other image, left to right.

    Raises:
        ValueError: If the size or the scale is out of range.

    Example:
        >>> RandomScaledCrop(32)(torch.zeros(3, 100, 80, dtype=torch.uint8), np.random.default_rng(0)).shape
        torch.Size([3, 32, 32])
    """

    def __init__(self, size: int | Shape, scale: Sequence[float] = (0.8, 1.0), flip: bool = True) -> None:
        self.shape = shape_of(size)
        check_scale(scale)
        if scale[0] <= 0:
            raise ValueError(f"scale of crop=adm must be above 0, got {list(scale)}")
        self.size, self.flip, self.scale = min(self.shape), flip, scale
        self.shortest, self.longest = math.ceil(self.size / scale[1]), math.ceil(self.size / scale[0])
        self.least = math.ceil(max(self.shape) / scale[0])

    @override
    def shaped(self, shape: Shape) -> "RandomScaledCrop":
        return RandomScaledCrop(shape, self.scale, self.flip)

    @override
    def __call__(self, image: Real[Tensor, "c height width"], generator: np.random.Generator) -> Real[Tensor, "c h w"]:
        """Scale, crop and perhaps mirror."""
        zoom, down, across, mirror = generator.random(4)
        short = self.shortest + int(zoom * (self.longest - self.shortest + 1))
        longest = LONGEST * min(image.shape[-2:])
        covered = (-(-self.shape[0] * short // self.size), -(-self.shape[1] * short // self.size))
        kept, (rows, columns) = _centre(image, longest, longest), self.shape
        height, width = covering_size((kept.shape[-2], kept.shape[-1]), covered)
        top, left = int(down * (height - rows + 1)), int(across * (width - columns + 1))
        crop = scale_to_cover(kept, covered, (top, left), self.shape)
        return (crop.flip(-1) if self.flip and mirror < 0.5 else crop).contiguous()


def scale_short_side(image: Real[Tensor, "c height width"], short: int) -> Real[Tensor, "c h w"]:
    """:func:`scale_to_cover` with a square: the short side gets this number of pixels."""
    return scale_to_cover(image, (short, short))


def scale_to_cover(
    image: Real[Tensor, "c height width"], shape: Shape, place: Shape = (0, 0), size: Shape | None = None
) -> Real[Tensor, "c h w"]:
    """ADM's scaling (arXiv 2105.05233): halve by a box filter as often as possible, then scale by a bicubic filter.

    Args:
        image: Any image.
        shape: Height and width that the result just covers.
        place: Top and left of the part of the result that is wanted.
        size: Height and width of that part; None = all that lies below and right of its corner.
    """
    halved, whole = _covering((image.shape[-2], image.shape[-1]), shape)
    rows, columns = size or (whole[0] - place[0], whole[1] - place[1])
    if halved:
        picture = picture_of(image)
        for height, width in halved:
            picture = picture.resize((width, height), Image.Resampling.BOX)
        image = pixels_of(picture)
    if len(image) == 3 and min(rows, columns) >= SMALL and image.shape[-2] <= TALL * image.shape[-1]:
        return bicubic_part(image, whole, place, (rows, columns))
    scaled = pixels_of(picture_of(image).resize((whole[1], whole[0]), Image.Resampling.BICUBIC))
    return scaled[:, place[0] : place[0] + rows, place[1] : place[1] + columns]


def covering_size(size: Shape, shape: Shape) -> Shape:
    """Height and width that :func:`scale_to_cover` gives an image of a size, to cover a shape."""
    return _covering(size, shape)[1]


def _covering(size: Shape, shape: Shape) -> tuple[list[Shape], Shape]:
    """The heights and widths on the way from an image's size to a shape that it covers: of halvings, and the last."""
    halved = list[Shape]()
    while size[0] >= 2 * shape[0] and size[1] >= 2 * shape[1]:
        size = (size[0] // 2, size[1] // 2)
        halved.append(size)
    factor = max(shape[0] / size[0], shape[1] / size[1])
    return halved, (round(size[0] * factor), round(size[1] * factor))


def picture_of(image: Real[Tensor, "c h w"]) -> Image.Image:
    """Pixels as an image that Pillow resizes as it should: grey without rounding, colours by their alpha."""
    return Image.fromarray(rearrange(image, "c h w -> h w c").squeeze(-1).contiguous().numpy())


def pixels_of(picture: Image.Image) -> Real[Tensor, "c h w"]:
    """The inverse of :func:`picture_of`; grey that was resized is held in [0, 255]."""
    pixels = torch.from_numpy(np.array(picture))
    return rearrange(pixels, "h w c -> c h w") if pixels.ndim == 3 else pixels.clamp(0, 255)[None]


def _resized(image: Real[Tensor, "c height width"], shape: Shape) -> Real[Tensor, "c h w"]:
    """Bicubic with antialiasing."""
    if len(image) == 4:  # a transparent pixel must not colour its neighbours, of which Pillow takes care
        return pixels_of(picture_of(image).resize((shape[1], shape[0]), Image.Resampling.BICUBIC))
    made = interpolate(image[None], shape, mode="bicubic", antialias=True)[0]
    return made.clamp(0, 255) if made.is_floating_point() else made


def shape_of(size: int | Shape) -> Shape:
    """Height and width, where one number means both; ValueError if an image cannot have them."""
    shape = (size, size) if isinstance(size, int) else (size[0], size[1])
    check_size(min(shape))
    return shape


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
