"""JPEG files: their header, and pixels only where libjpeg has nothing to object to.

libjpeg goes on after damage, and Pillow drops what it warns of: two thirds of a picture may be grey. simplejpeg is the
same libjpeg-turbo with the same settings (the same pixels to the last bit, in less time) and tells of the first
warning. Some warnings are of bytes that no pixel depends on: then these bytes are left out and libjpeg is asked again.
"""

import re
import struct
from collections.abc import Iterator
from io import BytesIO
from typing import NamedTuple

import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

SOI, EOI, SOS, COM, TEM = 0xD8, 0xD9, 0xDA, 0xFE, 0x01
APP0, APP1, APP14, APP15 = 0xE0, 0xE1, 0xEE, 0xEF
SEQUENTIAL, FRAMES = (0xC0, 0xC1), (0xC0, 0xC1, 0xC2)
NO_FRAMES = (0xC4, 0xC8, 0xCC)  # tables and reserved among the markers of frames
MAX_SCANS = 256  # a progressive JPEG has about ten; thousands take minutes to decode
MODES = {1: "L", 3: "RGB", 4: "CMYK"}
XMP = b"http://ns.adobe.com/xap/1.0/\0"
_MARKER = re.compile(
    rb"\xff+[^\x00\xd0-\xd7\xff]", re.DOTALL
)  # in or behind a scan: neither a byte of it nor a restart
_PADDING = re.compile(rb"(?<!\xff)\x00+(?=\xff+[^\x00\xff])", re.DOTALL)  # zeros before a marker; FF 00 is a byte


class Segment(NamedTuple):
    """A marker, where it begins (with FF), and where what belongs to it ends."""

    marker: int
    start: int
    end: int


class Frame(NamedTuple):
    """What a JPEG's start of frame says: its kind, and its size in pixels and colours."""

    marker: int
    height: int
    width: int
    colours: int

    @property
    def mode(self) -> str:
        """Pillow's name for its colours; "" where there is none."""
        return MODES.get(self.colours, "")


def segments(data: bytes) -> Iterator[Segment]:
    """The segments up to the first scan's header, as libjpeg finds them: bytes between them are skipped.

    Raises:
        ValueError: If the file ends before there is a scan.
    """
    at, marker = 2, SOI
    while marker != SOS:
        start = data.find(b"\xff", at)
        if start < 0:
            raise ValueError("is a JPEG without an image")
        at = start + 1
        while data[at : at + 1] == b"\xff":
            at += 1
        marker, at = (data[at : at + 1] or b"\0")[0], at + 1
        if marker in (0x00, TEM) or 0xD0 <= marker <= SOI:  # stand alone, without a length
            continue
        if marker == EOI:
            raise ValueError("is a JPEG without an image")
        end = at + int.from_bytes(data[at : at + 2])
        if end > len(data):
            raise ValueError("is truncated inside its header")
        yield Segment(marker, at - 2, end)
        at = end


def read_frame(data: bytes) -> Frame:
    """Size and colours of a JPEG.

    Raises:
        ValueError: With the reason, if it is of a kind that cannot be read, or the file ends before it says so.
    """
    for marker, start, end in segments(data):
        if 0xC0 <= marker <= 0xCF and marker not in NO_FRAMES:
            if end < start + 10:
                raise ValueError("is truncated inside its header")
            precision, height, width, colours = struct.unpack_from(">BHHB", data, start + 4)
            if precision != 8 or marker not in FRAMES:
                raise ValueError("is a JPEG that is neither baseline nor progressive with 8 bits; convert it")
            if data.count(b"\xff\xda") > MAX_SCANS and _scans(data) > MAX_SCANS:  # the first also counts in other data
                raise ValueError(f"is a JPEG of more than {MAX_SCANS} scans")
            return Frame(marker, height, width, colours)
    raise ValueError("is a JPEG without an image")


def decode_jpeg(data: bytes, factor: int = 1) -> UInt8[np.ndarray, "h w 3"]:
    """The pixels, as Pillow would show them.

    Args:
        data: The file, of which :func:`read_frame` has read the header.
        factor: 1, 2, 4 or 8: sides are divided by it and rounded up.

    Raises:
        ValueError: With the reason, if libjpeg warns of damage in what the pixels depend on.
    """
    frame = read_frame(data)
    try:
        return _pixels(data, frame, factor)
    except ValueError:
        try:
            return _pixels(_lean(data, frame), frame, factor)
        except ValueError as error:
            raise ValueError(_reason(str(error), data)) from None


def information(data: bytes) -> dict[str, bytes]:
    """EXIF (``exif``) and XMP (``xmp``) blocks, where there are any."""
    found: dict[str, bytes] = {}
    for marker, start, end in segments(data):
        block = data[start + 4 : end] if marker == APP1 else b""
        if block.startswith(b"Exif\0\0"):
            found["exif"] = found["exif"] + block[6:] if "exif" in found else block
        elif block.startswith(XMP):
            found["xmp"] = block[len(XMP) :]
    return found


def _pixels(data: bytes, frame: Frame, factor: int) -> UInt8[np.ndarray, "h w 3"]:
    if frame.mode == "":
        raise ValueError(f"has {frame.colours} colours")
    least = (-(-frame.height // factor), -(-frame.width // factor), factor)  # which picks this factor among all
    try:
        pixels = simplejpeg.decode_jpeg(data, "CMYK" if frame.mode == "CMYK" else "RGB", False, False, *least)
    except ValueError as error:
        if "subsampling" not in str(error):
            raise
        return _rare(data, factor)
    if frame.mode != "CMYK":
        return pixels
    return np.array(Image.fromarray(255 - pixels, "CMYK").convert("RGB"))  # such files hold what is missing from white


def _rare(data: bytes, factor: int) -> UInt8[np.ndarray, "h w 3"]:
    """Colours at a size for which simplejpeg has no name: here nobody tells of damage but a missing end."""
    try:
        with JpegImageFile(BytesIO(data)) as image:
            image.draft(None, (max(1, image.width // factor), max(1, image.height // factor)))
            return np.array(image.convert("RGB"))
    except (OSError, SyntaxError):
        raise ValueError("Premature end of JPEG file") from None


def _lean(data: bytes, frame: Frame) -> bytes:
    """The file without what libjpeg may warn of although no pixel depends on it."""
    parts = [b"\xff\xd8"]
    for marker, start, end in segments(data):
        if marker == SOS:
            scans = bytearray(_PADDING.sub(b"", data[start:]))  # a scan that needs these zeros is found to end too soon
            if frame.marker in SEQUENTIAL:
                _name_whole_spectrum(scans)
            return b"".join([*parts, scans])
        block = bytearray(data[start:end])
        if marker == APP0 and block[4:9] == b"JFIF\0":
            block[9:10] = b"\1"  # the version, which some files get wrong
        elif marker == APP14 and block[4:9] == b"Adobe" and len(block) > 15:
            usual = 1 if frame.colours == 3 else 2  # what libjpeg takes an unknown transform for
            block[15] = block[15] if block[15] in (0, usual) else usual
        elif APP0 <= marker <= APP15 or marker == COM:
            continue
        parts.append(bytes(block))
    raise ValueError("is a JPEG without an image")


def _name_whole_spectrum(scans: bytearray) -> None:
    """Mend what the headers of sequential scans say of progression, which they have none of."""
    at = scans.find(b"\xff\xda")
    while 0 <= at < len(scans) - 10:
        end = at + 2 + (scans[at + 2] << 8 | scans[at + 3])
        scans[end - 3 : end] = b"\0\x3f\0"
        at = scans.find(b"\xff\xda", end)


def _scans(data: bytes) -> int:
    """How many scans there are, which only a walk over all markers can tell."""
    *_, first = segments(data)
    count, at = 1, first.end
    while (found := _MARKER.search(data, at)) is not None:
        marker, at = found.group()[-1], found.end()
        if marker == EOI:
            break
        count += marker == SOS
        at += int.from_bytes(data[at : at + 2])
    return count


def _reason(message: str, data: bytes) -> str:
    """What libjpeg says, in a sentence."""
    *_, scan = segments(data)
    if data.find(b"\xff\xd9", scan.end) < 0:
        return "is a truncated JPEG (it has no end mark)"
    message = message.splitlines()[0].rpartition("(): ")[2].removeprefix("Corrupt JPEG data: ").strip()
    return f"is a damaged JPEG ({message[:1].lower()}{message[1:]})"
