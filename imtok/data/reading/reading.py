"""How image files are read: settings that every kind of data takes by keyword and hands on as one part."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict, get_args

from jaxtyping import Real
from torch import Tensor

from imtok.data.reading.decode import MAX_PIXELS, WHITE, decode_image
from imtok.data.reading.transforms import CentreCrop, RandomScaleCrop, RandomScaledCrop, Transform, check_scale

Crop = Literal["square", "adm", "centre"]
Decode = Literal["exact", "scaled"]


class ReadingSettings(TypedDict, total=False):
    """The arguments of :class:`Reading`, for signatures that take them by ``**reading``."""

    scale: Sequence[float]
    flip: bool
    crop: Crop
    decode: Decode
    max_pixels: int
    background: Sequence[int]


@dataclass(frozen=True)
class Reading:
    """How the files of images become pixels, and which crops of them are trained on.

    Args:
        scale: Smallest and largest side of a training crop, as fractions of an image's short side, in [0, 1].
        flip: Mirror every other training crop.
        crop: What training crops are: "square", a square of the image at a random place and scale
            (:class:`RandomScaleCrop`), "adm", a square of the randomly scaled image (:class:`RandomScaledCrop`), or
            "centre", the square that evaluation takes, of which ``scale`` changes nothing (:class:`CentreCrop`).
        decode: "exact", or "scaled": in training, JPEGs of which no crop shows all the detail are decoded at a half, a
            quarter or an eighth of their size. Worth using when images are at least twice as large as the crops need.
        max_pixels: Larger images are bad images; they are refused before they are decoded.
        background: What shows through transparent images: red, green and blue in [0, 255].

    Raises:
        ValueError: If an argument is out of range.
    """

    scale: Sequence[float] = (0.8, 1.0)
    flip: bool = True
    crop: Crop = "square"
    decode: Decode = "exact"
    max_pixels: int = MAX_PIXELS
    background: Sequence[int] = WHITE

    def __post_init__(self) -> None:
        if len(self.background) != 3 or not all(0 <= level <= 255 for level in self.background):
            raise ValueError(f"background must be red, green and blue in [0, 255], got {list(self.background)}")
        if self.max_pixels < 1:
            raise ValueError(f"max_pixels must be at least 1, got {self.max_pixels}")
        check_scale(self.scale)
        if self.crop not in get_args(Crop) or self.decode not in get_args(Decode):
            raise ValueError(
                f"crop must be square, adm or centre and decode exact or scaled, got {self.crop} and {self.decode}"
            )

    @property
    def shade(self) -> tuple[int, int, int]:
        """``background``, as functions take it."""
        return self.background[0], self.background[1], self.background[2]

    def training_crop(self, image_size: int) -> Transform:
        """The crop that the settings ask for."""
        if self.crop == "centre":
            return CentreCrop(image_size, self.flip)
        crop = RandomScaledCrop if self.crop == "adm" else RandomScaleCrop
        return crop(image_size, self.scale, self.flip)

    def least(self, transform: Transform) -> int | None:
        """The short side that ``transform`` needs of an image in training; None = images are decoded as they are."""
        return transform.least if self.decode == "scaled" else None

    def pixels(self, data: bytes, name: str, least: int | None = None, channels: int = 3) -> Real[Tensor, "c h w"]:
        """The pixels of a file; see :func:`~imtok.data.reading.decode.decode_image`."""
        return decode_image(data, name, self.max_pixels, self.shade, least, channels)
