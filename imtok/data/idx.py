"""Data sets in the idx format of MNIST (LeCun et al., 1998): Fashion-MNIST (arXiv 1708.07747) and its like."""

import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from typing_extensions import override

from imtok.data.arrays import Arrays, ArraySource
from imtok.data.images import Source
from imtok.errors import InputError

MAX_BYTES = 2**30  # of pixels; MNIST has 47 MB
PREFIX = {"train": "train", "val": "t10k"}


class Idx(Arrays):
    """Grey images in four idx files, packed by gzip or not: ``train-images-idx3-ubyte``, ``t10k-labels-idx1-ubyte``...

    Args:
        classes: Names of the classes.
        path: The folder of the files; None = the first of ``places`` that is there.
        places: Where they usually are.
        pad: See :class:`Arrays`.
        scale: See :class:`Arrays`.
        flip: See :class:`Arrays`.

    Raises:
        ValueError: If an argument is out of range.
        InputError: From its methods, if a file is missing or damaged.
    """

    def __init__(
        self,
        classes: Sequence[str],
        path: str | Path | None = None,
        places: Sequence[str] = (),
        pad: int = 0,
        scale: Sequence[float] = (1.0, 1.0),
        flip: bool = False,
    ) -> None:
        super().__init__(path, pad, scale, flip)
        self.classes, self.places = list(classes), [Path(place) for place in places]

    @override
    def open(self, split: str) -> Source:
        folder = self._folder()
        images = read_idx(_file(folder, f"{PREFIX[split]}-images-idx3-ubyte"), 3)
        labels = read_idx(_file(folder, f"{PREFIX[split]}-labels-idx1-ubyte"), 1)
        if len(labels) != len(images) or int(labels.max(initial=0)) >= len(self.classes):
            raise InputError(
                f"{folder}: the labels of {PREFIX[split]} are not one of {len(self.classes)} classes for each of "
                f"{len(images)} images; get the files again"
            )
        return ArraySource(split, images[..., None], labels.astype(np.int64), self.classes, self.pad)

    def _folder(self) -> Path:
        if self.path is not None:
            return self.path
        for place in self.places:
            if _found(place, f"{PREFIX['train']}-images-idx3-ubyte") is not None:
                return place
        looked = ", ".join(map(str, self.places)) or "no place"
        raise InputError(f"the idx files (train-images-idx3-ubyte.gz ...) are not in {looked}; give data.path=DIR")


def read_idx(path: Path, dimensions: int) -> UInt8[np.ndarray, "..."]:
    """The bytes of an idx file as an array.

    Args:
        path: The file; one that ends in ``.gz`` is unpacked.
        dimensions: How many it must have.

    Raises:
        InputError: If it cannot be read or does not hold what its header says.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            header = file.read(4 + 4 * dimensions)
            if header[:4] != bytes((0, 0, 8, dimensions)) or len(header) < 4 + 4 * dimensions:
                raise InputError(f"{path} is not an idx file of bytes in {dimensions} dimensions; get it again")
            shape = np.frombuffer(header, ">u4", dimensions, 4).astype(np.int64).tolist()
            size = int(np.prod([float(side) for side in shape]))
            if size > MAX_BYTES:
                raise InputError(f"{path} says that it holds {size} bytes, more than {MAX_BYTES}; get it again")
            data = file.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        reason = (getattr(error, "strerror", None) or str(error)).splitlines()[0]
        raise InputError(f"{path} cannot be read ({reason}); get it again, or give data.path=DIR") from None
    if len(data) != size:
        held = "more" if len(data) > size else str(len(data))
        raise InputError(f"{path} should hold {size} bytes and holds {held}; get it again")
    return np.frombuffer(data, np.uint8).reshape(shape)


def _found(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _file(folder: Path, name: str) -> Path:
    path = _found(folder, name)
    if path is None:
        raise InputError(f"data.path={folder} has no {name} or {name}.gz; give the folder of the four idx files")
    return path
