"""Images that are kept as pixels in memory: small data sets whose files are one array each."""

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Int64, Real, UInt8
from PIL import Image
from torch import Tensor
from typing_extensions import override

from imtok.data.base import SPLITS, Data, check_split
from imtok.data.images import ImageSet, Source, content_hash
from imtok.data.reading.transforms import CentreCrop, RandomScaleCrop, check_scale
from imtok.data.sources.joined import Joined
from imtok.pixels import as_channels


def as_png(image: Real[Tensor, "c h w"]) -> bytes:
    """Pixels as a PNG file; grey ones with one channel."""
    pixels = rearrange(image, "c h w -> h w c").numpy()
    grey = bool((pixels == pixels[..., :1]).all())
    file = BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels[..., 0] if grey else pixels)).save(file, "PNG")
    return file.getvalue()


class ArraySource(Source):
    """Images of one size in one array.

    Args:
        name: What their keys start with.
        pixels: Grey or RGB.
        labels: Their classes.
        classes: Names of the classes.
        pad: Black pixels to add on every side.

    Raises:
        ValueError: If there are not as many labels as images, or ``pad`` is negative.
    """

    def __init__(
        self,
        name: str,
        pixels: UInt8[np.ndarray, "n h w c"],
        labels: Int64[np.ndarray, " labels"],
        classes: Sequence[str],
        pad: int = 0,
    ) -> None:
        if len(labels) != len(pixels):
            raise ValueError(f"labels must be one for each of {len(pixels)} images, got {len(labels)}")
        if pad < 0:
            raise ValueError(f"pad must be at least 0 pixels, got {pad}")
        self.name, self.pixels, self.labels, self.classes, self.pad = name, pixels, labels, list(classes), pad

    @override
    def __len__(self) -> int:
        return len(self.pixels)

    @override
    def read(self, index: int) -> bytes:
        return as_png(as_channels(self._image(index), 3))

    @override
    def key(self, index: int) -> str:
        return f"{self.name}/{index:06d}"

    @override
    def label(self, index: int) -> int:
        return int(self.labels[index])

    @override
    def record(self, index: int) -> str:
        return f"{self.key(index)}\t{self._hash.hex()}\t{self.labels[index]}"

    @cached_property
    def _hash(self) -> bytes:
        return content_hash(np.ascontiguousarray(self.pixels).tobytes())

    @override
    def image(self, index: int, least: int | None = None) -> Real[Tensor, "c h w"]:
        return as_channels(self._image(index), self.channels)

    @override
    def shape(self, index: int) -> tuple[int, int]:
        return self.pixels.shape[1] + 2 * self.pad, self.pixels.shape[2] + 2 * self.pad

    def _image(self, index: int) -> UInt8[Tensor, "own h w"]:
        """Grey or RGB, as it is kept."""
        pixels = np.pad(self.pixels[index], ((self.pad, self.pad), (self.pad, self.pad), (0, 0)))
        return rearrange(torch.from_numpy(pixels), "h w c -> c h w")


class Arrays(Data):
    """A small labelled data set with test images of its own, which are what is held out.

    Args:
        path: The folder of its files; None = where they usually are.
        pad: Black pixels to add on every side.
        scale: Smallest and largest side of a training crop, as fractions of the side, in [0, 1]; (1, 1) = all of it.
        flip: Mirror every other training image.

    Raises:
        ValueError: If an argument is out of range.
        InputError: From its methods, if the files are missing or damaged.
    """

    def __init__(
        self, path: str | Path | None = None, pad: int = 0, scale: Sequence[float] = (1.0, 1.0), flip: bool = True
    ) -> None:
        check_scale(scale)
        if pad < 0:
            raise ValueError(f"pad must be at least 0 pixels, got {pad}")
        self.path = None if path is None else Path(path)
        self.pad, self.scale, self.flip = pad, scale, flip

    @abstractmethod
    def open(self, split: str) -> Source:
        """The images of "train" or of "val"; InputError if their files are missing or damaged."""

    @property
    @override
    def splits(self) -> tuple[str, ...]:
        return SPLITS  # the test images are what is held out

    @override
    def train(self, image_size: int, seed: int) -> ImageSet:
        return ImageSet(self.open("train"), RandomScaleCrop(image_size, self.scale, self.flip), seed, training=True)

    @override
    def evaluation(self, image_size: int, split: str | None = None) -> ImageSet:
        """The test images by default."""
        split = split or "val"
        check_split(split, self.splits)
        split = "val" if split == "test" else split
        source = Joined([self.open("train"), self.open("val")]) if split == "all" else self.open(split)
        return ImageSet(source, CentreCrop(image_size))
