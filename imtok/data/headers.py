"""What a file is and how large its image is, from its first bytes and before anything is decoded."""

import struct
import zlib
from typing import NamedTuple

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
SUFFIXES = (b".jpg", b".jpeg", b".jpe", b".jfif", b".png", b".webp")
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
PNG_VITAL = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")  # what the pixels depend on
MAX_SCANS = 256  # a progressive JPEG has about ten; thousands take minutes to decode


class Header(NamedTuple):
    """Format ("JPEG", "PNG" or "WebP") and size in pixels."""

    format: str
    height: int
    width: int


def read_header(data: bytes) -> Header:
    """Format and size of an encoded image.

    Raises:
        ValueError: With the reason, if it is neither JPEG, PNG nor WebP or its header is damaged.
    """
    if not data:
        raise ValueError("is empty")
    try:
        if data.startswith(b"\xff\xd8"):
            return _jpeg(data)
        if data.startswith(PNG_MAGIC):
            return _png(data)
        if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            return _webp(data)
    except (struct.error, IndexError):
        raise ValueError("is truncated inside its header") from None
    raise ValueError(f"is {_stranger(data)}, not JPEG, PNG or WebP; convert or remove it")


def _png(data: bytes) -> Header:
    """Walk all chunks: Pillow does not test the checksums of image data and shows damaged pixels."""
    if data[12:16] != b"IHDR":
        raise ValueError("is a PNG without a header")
    width, height = struct.unpack_from(">II", data, 16)
    at, kind = len(PNG_MAGIC), b""
    while kind != b"IEND":
        length, kind = struct.unpack(">I4s", data[at : at + 8].ljust(8, b"\0"))
        end = at + 8 + length
        if end + 4 > len(data):
            raise ValueError("is a truncated PNG (no end mark)")
        if kind in PNG_VITAL and struct.unpack_from(">I", data, end)[0] != zlib.crc32(memoryview(data)[at + 4 : end]):
            raise ValueError(f"is a damaged PNG (wrong checksum at byte {at})")
        at = end + 4
    return Header("PNG", height, width)


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


def _jpeg(data: bytes) -> Header:
    """Walk the segments up to the start of frame, as libjpeg does."""
    at = 2
    while True:
        at = data.find(b"\xff", at)
        if at < 0:
            raise ValueError("is a JPEG without an image")
        while data[at] == 0xFF:
            at += 1
        marker, at = data[at], at + 1
        if marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:  # stand alone, without a length
            continue
        if marker in (0xD9, 0xDA):
            raise ValueError("is a JPEG without an image")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            precision, height, width = struct.unpack_from(">BHH", data, at + 2)
            if precision != 8 or marker not in (0xC0, 0xC1, 0xC2):
                raise ValueError("is a JPEG that is neither baseline nor progressive with 8 bits; convert it")
            if data.count(b"\xff\xda") > MAX_SCANS:
                raise ValueError(f"is a JPEG of more than {MAX_SCANS} scans")
            return Header("JPEG", height, width)
        at += struct.unpack_from(">H", data, at)[0]


def _stranger(data: bytes) -> str:
    for magic, name in STRANGERS.items():
        if data.startswith(magic):
            return name
    if data[4:8] == b"ftyp":
        return "AVIF, HEIC or a video"
    start = data[:256].lstrip().lower()
    if start.startswith((b"<svg", b"<?xml")):
        return "SVG or XML"
    if start.startswith((b"<!doctype", b"<html")):
        return "a web page"
    return "unknown"
