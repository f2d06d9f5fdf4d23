"""Small data sets in the files that their authors give away: MNIST's idx format and CIFAR-10.

MNIST is LeCun et al. (1998), Fashion-MNIST arXiv 1708.07747, CIFAR-10 Krizhevsky (2009). No file is unpickled.
"""

import gzip
import pickletools
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8
from typing_extensions import override

from imtok.data.images import Source
from imtok.data.sources.arrays import Arrays, ArraySource
from imtok.errors import InputError

MAX_BYTES = 2**30  # of pixels; MNIST has 47 MB
PREFIX = {"train": "train", "val": "t10k"}
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BATCHES = {"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "val": ("test_batch",)}
SIDE = 32
PIXELS = 3 * SIDE * SIDE
FOLDERS = ("", "cifar-10-batches-bin", "cifar-10-batches-py")
PLACES = ("data",)


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


class Cifar10(Arrays):
    """50,000 colour images of 32 x 32 pixels to train on and 10,000 to test, in ten classes.

    Reads the binary files (``data_batch_1.bin`` ...) and those for Python, which torchvision downloads
    (``data_batch_1`` ...): of these the opcodes are listed, not run. Arguments: :class:`Arrays`.
    """

    @override
    def open(self, split: str) -> Source:
        folder = self._folder()
        parts = [_batch(folder / name) for name in BATCHES[split]]
        pixels = np.concatenate([part[0] for part in parts])
        images = pixels.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
        return ArraySource(split, images, np.concatenate([part[1] for part in parts]), CLASSES, self.pad)

    def _folder(self) -> Path:
        roots = [self.path] if self.path is not None else [Path(place) for place in PLACES]
        for folder in (root / name for root in roots for name in FOLDERS):
            if (folder / "test_batch").is_file() or (folder / "test_batch.bin").is_file():
                return folder
        looked = ", ".join(map(str, roots))
        raise InputError(
            f"CIFAR-10 (cifar-10-batches-py or cifar-10-batches-bin, unpacked) is not in {looked}; give data.path=DIR"
        )


def _batch(path: Path) -> tuple[UInt8[np.ndarray, "n 3072"], Int64[np.ndarray, " n"]]:
    binary = path.with_name(f"{path.name}.bin")
    try:
        data = binary.read_bytes() if binary.is_file() else path.read_bytes()
        pixels, labels = _rows(data) if binary.is_file() else _pickled(data)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); unpack the archive again") from None
    except ValueError as error:
        raise InputError(f"{path} {error}; unpack the archive again") from None
    if not len(labels) or labels.max() >= len(CLASSES):
        raise InputError(f"{path} holds a label that is no class of CIFAR-10; unpack the archive again")
    return pixels, labels


def _rows(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    if not data or len(data) % (PIXELS + 1):
        raise ValueError(f"should hold rows of {PIXELS + 1} bytes and holds {len(data)}")
    rows = np.frombuffer(data, np.uint8).reshape(-1, PIXELS + 1)
    return rows[:, 1:], rows[:, 0].astype(np.int64)


def _pickled(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """The one large string of a pickle is the pixels, the one long list of numbers the labels."""
    pixels, labels, numbers = b"", list[int](), list[int]()
    for name, argument in _opcodes(data):
        if name in ("BININT1", "BININT", "BININT2"):
            numbers.append(int(argument))
            continue
        if len(numbers) > len(labels):
            labels = numbers
        if name not in ("MEMOIZE", "BINPUT", "LONG_BINPUT"):
            numbers = []
        if name in ("BINSTRING", "SHORT_BINSTRING", "BINBYTES", "BINUNICODE") and len(argument) > len(pixels):
            pixels = argument if isinstance(argument, bytes) else argument.encode("latin-1", "replace")
    if not pixels or len(pixels) != PIXELS * len(labels):
        raise ValueError(f"should hold {PIXELS} bytes for each of {len(labels)} labels and holds {len(pixels)}")
    return np.frombuffer(pixels, np.uint8).reshape(-1, PIXELS), np.array(labels, dtype=np.int64)


def _opcodes(data: bytes) -> Iterator[tuple[str, Any]]:
    try:
        for opcode, argument, _ in pickletools.genops(data):
            yield opcode.name, argument
    except Exception as error:  # it parses text of many kinds
        raise ValueError(f"is not the pickle that it should be ({str(error).splitlines()[0][:80]})") from None
