"""CIFAR-10 (Krizhevsky, 2009) from the files that its author gives away, of which none is unpickled."""

import pickletools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8
from typing_extensions import override

from imtok.data.arrays import Arrays, ArraySource
from imtok.data.images import Source
from imtok.errors import InputError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BATCHES = {"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "val": ("test_batch",)}
SIDE, EACH = 32, 10_000
PIXELS = 3 * SIDE * SIDE
FOLDERS = ("", "cifar-10-batches-bin", "cifar-10-batches-py")
PLACES = ("data",)


class Cifar10(Arrays):
    """50,000 colour images of 32 x 32 pixels to train on and 10,000 to test, in ten classes.

    Reads the binary files (``data_batch_1.bin`` ...) and those for Python, which torchvision downloads
    (``data_batch_1`` ...): of these the opcodes are listed, not run. Arguments: :class:`Arrays`.
    """

    @override
    def open(self, split: str) -> Source:
        folder = self._folder()
        parts = [_read(folder / name) for name in BATCHES[split]]
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


def _read(path: Path) -> tuple[UInt8[np.ndarray, "n 3072"], Int64[np.ndarray, " n"]]:
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
