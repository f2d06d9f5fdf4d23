"""Decodes PNG files, and refuses those that lack pixels.

Pillow tests no checksum of image data, shows rows that are missing as black and a missing palette as grey, and refuses
pictures for what their pixels do not depend on: long texts, large profiles, other chunks with a wrong checksum.
"""

import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from typing import NamedTuple

from PIL import Image
from PIL.PngImagePlugin import PngImageFile

MAGIC = b"\x89PNG\r\n\x1a\n"
VITAL = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")  # what the pixels depend on
PALETTE = 3  # the colour type whose pixels are places in a palette
FILLS = (1, 254)  # what the last row holds before a picture is decoded over it


class PngChunk(NamedTuple):
    """A chunk's kind, where it begins (with its length), and where its data end."""

    kind: bytes
    start: int
    end: int


def chunks(data: bytes) -> Iterator[PngChunk]:
    """All chunks up to the end mark.

    Raises:
        ValueError: If there is no end mark.
    """
    at, kind = len(MAGIC), b""
    while kind != b"IEND":
        length, kind = struct.unpack(">I4s", data[at : at + 8].ljust(8, b"\0"))
        end = at + 8 + length
        if end + 4 > len(data):
            raise ValueError("is a truncated PNG (no end mark)")
        yield PngChunk(kind, at, end)
        at = end + 4


def read_size(data: bytes) -> tuple[int, int]:
    """Height and width, after a look at all chunks that the pixels depend on.

    Raises:
        ValueError: With the reason, if one is damaged or missing.
    """
    if data[12:16] != b"IHDR":
        raise ValueError("is a PNG without a header")
    width, height = struct.unpack_from(">II", data, 16)
    seen = set[bytes]()
    for kind, start, end in chunks(data):
        if kind in VITAL and struct.unpack_from(">I", data, end)[0] != zlib.crc32(memoryview(data)[start + 4 : end]):
            raise ValueError(f"is a damaged PNG (wrong checksum at byte {start})")
        if kind == b"IHDR" and b"IHDR" in seen:
            raise ValueError("is a damaged PNG (it has two headers)")
        if kind == b"IDAT" and data[25] == PALETTE and b"PLTE" not in seen:
            raise ValueError("is a damaged PNG (its colours are places in a palette, and it has none)")
        seen.add(kind)
    if b"IDAT" not in seen:
        raise ValueError("is a PNG without an image")
    return height, width


def read_mode(data: bytes) -> str:
    """Pillow's name for the colours that a PNG stores."""
    depth, colour = data[24], data[25]
    if colour == 0:
        return {1: "1", 16: "I;16"}.get(depth, "L")
    return {2: "RGB", PALETTE: "P", 4: "LA", 6: "RGBA"}[colour]


def load_png(data: bytes) -> PngImageFile:
    """A decoded PNG, of which every pixel is from the file.

    Args:
        data: The file, of which :func:`read_size` has read all chunks.

    Raises:
        ValueError: With the reason, if the file has not all pixels, or pixels of no colour.
    """
    try:
        image = _load(data)
    except ValueError:
        lean = _lean(data)
        if lean == data:
            raise
        image = _load(lean)  # if that fails too, it is for the pixels
    if image.mode == "P":
        entries = next((end - start - 8) // 3 for kind, start, end in chunks(data) if kind == b"PLTE")
        largest = image.getextrema()[1]
        if isinstance(largest, int | float) and largest >= entries:
            raise ValueError(f"is a damaged PNG (colour {largest} of a palette of {entries})")
    return image


def _load(data: bytes) -> PngImageFile:
    """Decode into memory whose last row is not black: what keeps its value in two tries was never written."""
    for fill in FILLS:
        try:
            image = PngImageFile(BytesIO(data))
        except Exception:
            raise ValueError("is a damaged PNG (its chunks cannot be read)") from None
        levels = (fill,) * len(image.getbands())
        box = _last(image.width, image.height, interlaced=data[28] == 1)
        row = Image.new(image.mode, (box[2] - box[0], box[3] - box[1]), levels if len(levels) > 1 else fill)
        memory = Image.new(image.mode, image.size, None)
        memory.paste(row, box)
        image.im = memory.im
        try:
            image.load()
        except MemoryError:
            raise
        except Exception:
            raise ValueError("is a damaged PNG (its image data end too soon or cannot be inflated)") from None
        last = image.crop(box).getextrema()
        if last not in ((fill, fill), ((fill, fill),) * len(levels)):
            return image
    raise ValueError("is a damaged PNG (its image data end before its last row)")


def _last(width: int, height: int, interlaced: bool) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what is decoded last: a row, or a pixel of a picture of one interlaced row."""
    if not interlaced:
        return 0, height - 1, width, height
    if height > 1:  # the last pass of seven: every odd row
        row = height - 1 - height % 2
        return 0, row, width, row + 1
    column = max(0, width - 1 - width % 2)  # the last but one: every odd column of even rows
    return column, 0, column + 1, 1


def _lean(data: bytes) -> bytes:
    """The file without chunks that no pixel depends on, but for the one that tells which side is up."""
    kept = [
        data[start : end + 4]
        for kind, start, end in chunks(data)
        if kind in VITAL or _is_sound_exif(data, kind, start, end)
    ]
    return MAGIC + b"".join(kept)


def _is_sound_exif(data: bytes, kind: bytes, start: int, end: int) -> bool:
    return kind == b"eXIf" and struct.unpack_from(">I", data, end)[0] == zlib.crc32(data[start + 4 : end])
