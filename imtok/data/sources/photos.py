"""Twelve photographs that come with scikit-image, scikit-learn and matplotlib: a first run without a download."""

from abc import abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import xxhash
from einops import rearrange
from jaxtyping import Real, UInt8
from torch import Tensor
from torch.nn.functional import interpolate
from typing_extensions import override

from imtok.data.base import Data, check_split
from imtok.data.images import ImageSet, Source
from imtok.data.reading.colours import RandomColours, check_share
from imtok.data.reading.decode import decode_image
from imtok.data.reading.transforms import CentreCrop, RandomScaleCrop
from imtok.data.sources.arrays import as_png
from imtok.errors import InputError
from imtok.pixels import as_channels

# Package (as pip knows it), its module, the folder inside it, and the photographs.
PACKAGES = (
    (
        "scikit-image",
        "skimage",
        "data",
        (
            "astronaut.png chelsea.png coffee.png hubble_deep_field.jpg ihc.png motorcycle_left.png "
            "motorcycle_right.png retina.jpg rocket.jpg"
        ),
    ),
    ("scikit-learn", "sklearn", "datasets/images", "china.jpg flower.jpg"),
    ("matplotlib", "matplotlib", "mpl-data/sample_data", "grace_hopper.jpg"),
)
SAME_SCENE = {"motorcycle_left", "motorcycle_right"}


class Photos(Data):
    """Random crops of nine photographs to train on, tiles of three others to measure.

    Whole photographs are held out: crops of one photograph look alike, so crops held out would flatter.

    Args:
        held_out: Names of the photographs to measure on.
        crops_per_photo: Crops of each photograph in an epoch, at least 1.
        scale: Smallest and largest side of a crop, as fractions of the photograph's short side, in [0, 1]; none is
            smaller than the image size, so nothing is enlarged.
        flip: Mirror every other crop.
        colours: Share of crops whose channels are exchanged, and of those whose light changes
            (:class:`~imtok.data.reading.colours.RandomColours`), in [0, 1]. Nine photographs hold few colours: without
            it a tokenizer paints the others in the nearest that it knows.

    Raises:
        ValueError: If ``held_out`` does not name some of the photographs, or parts two views of one scene, or a number
            is out of range.

    Example:
        >>> photos = Photos(crops_per_photo=10)
        >>> len(photos.train(image_size=64, seed=0)), len(photos.validation(image_size=64))
        (90, 148)
    """

    def __init__(
        self,
        held_out: Sequence[str] = ("chelsea", "rocket", "flower"),
        crops_per_photo: int = 256,
        scale: Sequence[float] = (0.0, 0.2),
        flip: bool = True,
        colours: float = 0.0,
    ) -> None:
        names = {Path(file).stem for *_, files in PACKAGES for file in files.split()}
        if not set(held_out) <= names or not 0 < len(set(held_out)) < len(names):
            raise ValueError(f"held_out must name some of {', '.join(sorted(names))}, got {list(held_out)}")
        if len(SAME_SCENE & set(held_out)) == 1:
            raise ValueError(f"held_out must name both of {', '.join(sorted(SAME_SCENE))} or neither: one scene")
        if crops_per_photo < 1:
            raise ValueError(f"crops_per_photo must be at least 1, got {crops_per_photo}")
        check_share(colours)
        self.held_out, self.crops_per_photo = frozenset(held_out), crops_per_photo
        self.scale, self.flip, self.colours = scale, flip, colours

    @override
    def train(self, image_size: int, seed: int) -> ImageSet:
        crops = _Crops(self._files("train"), self.crops_per_photo)
        crop = RandomScaleCrop(image_size, self.scale, self.flip)
        return ImageSet(crops, RandomColours(crop, self.colours) if self.colours else crop, seed, training=True)

    @override
    def evaluation(self, image_size: int, split: str | None = None) -> ImageSet:
        """Tiles of the held-out photographs (or of ``split``) at native scale, side by side without overlap.

        A photograph smaller than a tile is enlarged until one fits.
        """
        transform = CentreCrop(image_size)
        return ImageSet(_Tiles(self._files(split or "val"), image_size), transform)

    def _files(self, split: str) -> list[Path]:
        check_split(split)
        files = {path.stem: path for path in _photographs()}
        return [
            path
            for name, path in sorted(files.items())
            if split in ("all", "val" if name in self.held_out else "train")
        ]


class _Photographs(Source):
    """Decoded photographs in memory, from which a sample is cut."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files
        self.photos = [_pixels(path) for path in files]  # here, so that workers that are forked share them
        self.hashes = [xxhash.xxh3_64_hexdigest(path.read_bytes()) for path in files]
        self.classes: list[str] = []

    @override
    def read(self, index: int) -> bytes:
        return as_png(self.colours(index))

    @override
    def label(self, index: int) -> int:
        return -1

    @override
    def record(self, index: int) -> str:
        return f"{self.key(index)}\t{self.hashes[self.photo(index)]}"

    @override
    def image(self, index: int, least: int | None = None) -> Real[Tensor, "c h w"]:
        return as_channels(self.colours(index), self.channels)

    @override
    def shape(self, index: int) -> tuple[int, int]:
        pixels = self.colours(index)
        return pixels.shape[-2], pixels.shape[-1]

    @abstractmethod
    def photo(self, index: int) -> int:
        """Which photograph a sample is cut from."""

    @abstractmethod
    def colours(self, index: int) -> UInt8[Tensor, "3 h w"]:
        """The sample, in RGB."""


class _Crops(_Photographs):
    """Every photograph so many times; the transform crops."""

    def __init__(self, files: list[Path], crops: int) -> None:
        super().__init__(files)
        self.crops = crops

    @override
    def __len__(self) -> int:
        return len(self.files) * self.crops

    @override
    def photo(self, index: int) -> int:
        return index // self.crops

    @override
    def key(self, index: int) -> str:
        return f"{self.files[self.photo(index)].name}#{index % self.crops}"

    @override
    def colours(self, index: int) -> UInt8[Tensor, "3 h w"]:
        return self.photos[self.photo(index)]


class _Tiles(_Photographs):
    """The squares of a grid over every photograph, centred, row by row."""

    def __init__(self, files: list[Path], size: int) -> None:
        super().__init__(files)
        self.size = size
        self.photos = [_enlarged(photo, size) for photo in self.photos]
        self.places = [
            (photo, (image.shape[1] % size) // 2 + row * size, (image.shape[2] % size) // 2 + column * size)
            for photo, image in enumerate(self.photos)
            for row in range(image.shape[1] // size)
            for column in range(image.shape[2] // size)
        ]

    @override
    def __len__(self) -> int:
        return len(self.places)

    @override
    def photo(self, index: int) -> int:
        return self.places[index][0]

    @override
    def key(self, index: int) -> str:
        photo, top, left = self.places[index]
        return f"{self.files[photo].name}#{top},{left}"

    @override
    def colours(self, index: int) -> UInt8[Tensor, "3 h w"]:
        photo, top, left = self.places[index]
        return self.photos[photo][:, top : top + self.size, left : left + self.size]


def photograph(name: str) -> UInt8[Tensor, "3 h w"]:
    """One of the twelve photographs; InputError if the package that it comes with is not installed."""
    return _pixels(next(path for path in _photographs() if path.stem == name))


def _photographs() -> list[Path]:
    """The files inside the installed packages, found without importing these."""
    paths: list[Path] = []
    for package, module, folder, files in PACKAGES:
        spec = find_spec(module)
        if spec is None or spec.origin is None:
            raise InputError(f"data=photos needs the package {package}, which is not installed; pip install {package}")
        for file in files.split():
            path = Path(spec.origin).parent / folder / file
            if not path.is_file():
                raise InputError(
                    f"{path} does not exist, so {package} came without its photographs; "
                    f"pip install --force-reinstall {package}, or use data=folder data.path=DIR"
                )
            paths.append(path)
    return paths


@lru_cache(maxsize=16)
def _pixels(path: Path) -> UInt8[Tensor, "3 h w"]:
    """A decoded photograph, once per process."""
    return decode_image(path.read_bytes(), str(path))


def _enlarged(image: UInt8[Tensor, "3 height width"], size: int) -> UInt8[Tensor, "3 h w"]:
    height, width = image.shape[-2:]
    if min(height, width) >= size:
        return image
    factor = size / min(height, width)
    enlarged = (max(size, round(height * factor)), max(size, round(width * factor)))
    return rearrange(interpolate(image[None], enlarged, mode="bicubic", antialias=True), "1 c h w -> c h w")
