"""What a file is and how large its image is, from its first bytes and before anything is decoded."""

import re
import struct
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from PIL import features

from imtok.data.reading import png
from imtok.data.reading.jpeg_header import read_frame

STRANGERS = {
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"%!PS": "PostScript",
    b"%PDF": "PDF",
    b"PK\3\4": "a ZIP archive",
    b"\x1f\x8b": "gzip-compressed",
    b"\0\0\1\0": "ICO",
    b"8BPS": "PSD",
    b"\xff\x0a": "JPEG XL",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"version https://git-lfs": "a Git LFS pointer",
}
HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
AVIF = bool(features.check("avif"))  # whether this Pillow can read it
SUFFIXES = (b".jpg", b".jpeg", b".jpe", b".jfif", b".png", b".webp", *((b".avif",) if AVIF else ()))
OTHERS = frozenset(  # of pictures that are not read
    b".apng .arw .avif .avifs .bmp .cr2 .cr3 .dds .dib .dng .eps .exr .gif .hdr .heic .heif .hif .ico .j2k .jp2 .jpf "
    b".jpx .jxl .jxr .nef .orf .pbm .pef .pgm .pnm .ppm .psd .qoi .raf .raw .rw2 .srw .svg .tga .tif .tiff .xcf".split()
)
_ALMOST = re.compile(
    rb"\.(jpe?g|jpe|jfif|png|webp|avif)([^.a-z/][^./]*|large|\.[0-9]+|\.(bak|old|orig|part|tmp|crdownload))$"
)
KINDS = "JPEG, PNG, WebP or AVIF" if AVIF else "JPEG, PNG or WebP"
SHOWN = 10  # kinds that a remark names


class Header(NamedTuple):
    """Format ("JPEG", "PNG", "WebP" or "AVIF") and size in pixels."""

    format: str
    height: int
    width: int


def read_header(data: bytes) -> Header:
    """Format and size of an encoded image.

    Raises:
        ValueError: With the reason, if it is of another type or its header is damaged.
    """
    if not data:
        raise ValueError("is empty")
    try:
        if data.startswith(b"\xff\xd8"):
            frame = read_frame(data)
            return Header("JPEG", frame.height, frame.width)
        if data.startswith(png.MAGIC):
            return Header("PNG", *png.read_size(data))
        if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            return _webp(data)
        if AVIF and data[4:8] == b"ftyp" and _brands(data) & {b"avif", b"avis"}:
            return _avif(data)
    except (struct.error, IndexError):
        raise ValueError("is truncated inside its header") from None
    raise ValueError(f"is {_stranger(data)}, not {KINDS}; convert or remove it")


def skipped_kind(name: bytes) -> str | None:
    """The suffix of a file that is named like a picture and not read; None for all others.

    Example:
        >>> [skipped_kind(name) for name in (b"a/1.HEIC", b"1.jpg_large", b"1.jpg.1", b"1.jpg", b"1.jpg.txt", b"1.txt")]
        ['.heic', '.jpg_large', '.jpg.1', None, None, None]
    """
    name = name.lower()
    if name.endswith(SUFFIXES):
        return None
    suffix = name[name.rfind(b".") :]
    other = suffix if suffix in OTHERS else None
    almost = None if other else _ALMOST.search(name)
    found = almost.group() if almost else other
    return None if found is None else found.decode(errors="replace")


def nameless_kind(start: bytes) -> str | None:
    """What a file without a suffix is, by its first 16 bytes, if that is a picture."""
    if start.startswith(b"\xff\xd8\xff"):
        return "JPEG without a suffix"
    if start.startswith(png.MAGIC):
        return "PNG without a suffix"
    if start.startswith(b"RIFF") and start[8:12] == b"WEBP":
        return "WebP without a suffix"
    kind = _stranger(start)
    return (
        f"{kind} without a suffix" if kind in ("GIF", "BMP", "TIFF", "HEIC", "AVIF", "JPEG XL", "JPEG 2000") else None
    )


def skipped(kinds: Counter[str], where: str) -> tuple[str, ...]:
    """The remark of a source on files that it skips; none if there are none.

    Args:
        kinds: How many there are of each kind.
        where: The path as the user gave it.
    """
    if not kinds:
        return ()
    count, most = kinds.total(), kinds.most_common(SHOWN)
    rest = count - sum(number for _, number in most)
    seen = ", ".join([*(f"{number} {kind}" for kind, number in most), *([f"{rest} others"] if rest else [])])
    return (
        f"skipped {count} file{'s' * (count > 1)} of {where} that imtok does not read: {seen}; convert them to {KINDS}",
    )


def _webp(data: bytes) -> Header:
    kind = data[12:16]
    if struct.unpack_from("<I", data, 4)[0] + 8 > len(data):
        raise ValueError("is a truncated WebP")
    if kind == b"VP8X":
        width = int.from_bytes(data[24:27], "little") + 1
        height = int.from_bytes(data[27:30], "little") + 1
    elif kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        raise ValueError("is a WebP without an image")
    return Header("WebP", height, width)


def _avif(data: bytes) -> Header:
    """The largest of the sizes that the file names: others are of tiles and thumbnails."""
    places = [at for at in _places(data, b"ispe") if at + 16 <= len(data)]
    if not places:
        raise ValueError("is an AVIF without an image, or truncated inside its header")
    sizes = (struct.unpack_from(">II", data, at + 8) for at in places)
    width, height = max(sizes, key=lambda size: size[0] * size[1])
    return Header("AVIF", height, width)


def _brands(data: bytes) -> set[bytes]:
    """What an ISO file says that it can be read as."""
    end = min(int.from_bytes(data[:4]), len(data), 256)
    return {data[8:12], *(data[at : at + 4] for at in range(16, end, 4))}


def _places(data: bytes, name: bytes) -> Iterator[int]:
    at = data.find(name)
    while at >= 0:
        yield at
        at = data.find(name, at + 1)


def _stranger(data: bytes) -> str:
    for magic, name in STRANGERS.items():
        if data.startswith(magic):
            return name
    if data[4:8] == b"ftyp":
        brands = _brands(data)
        return "AVIF" if brands & {b"avif", b"avis"} else "HEIC" if brands & HEIC else "a video"
    start = data[:256].lstrip().lower()
    if start.startswith((b"<svg", b"<?xml")):
        return "SVG or XML"
    if start.startswith((b"<!doctype", b"<html")):
        return "a web page"
    return "unknown"
