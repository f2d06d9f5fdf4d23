"""Decodes JPEG files, and refuses those whose image data libjpeg warns about.

libjpeg continues after damage, and Pillow drops its warnings, so two thirds of a picture may be grey. simplejpeg is the
same libjpeg-turbo with the same settings (the same pixels to the last bit, in less time) and reports the first warning.
Some warnings are about bytes that no pixel depends on. These bytes are then left out, and the file is decoded again.
"""

import re
from io import BytesIO

import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from imtok.data.reading.jpeg_header import (
    APP0,
    APP14,
    APP15,
    COM,
    PROGRESSIVE,
    SEQUENTIAL,
    SOS,
    Frame,
    is_refined,
    read_frame,
    segments,
)
from imtok.data.reading.jpeg_scan import without_rest

LEFT_OVER = "extraneous bytes before marker 0xd9"
_PADDING = re.compile(rb"(?<!\xff)\x00+(?=\xff+[^\x00\xff])", re.DOTALL)  # zeros before a marker; FF 00 is a byte


def decode_jpeg(data: bytes, factor: int = 1) -> UInt8[np.ndarray, "h w 3"]:
    """The pixels, as Pillow would show them.

    Args:
        data: The file, of which :func:`read_frame` has read the header.
        factor: 1, 2, 4 or 8: sides are divided by it and rounded up.

    Raises:
        ValueError: With the reason, if libjpeg warns of damage in what the pixels depend on, or scans are missing.
    """
    frame = read_frame(data)
    pixels = _whole(data, frame, factor)
    if frame.marker == PROGRESSIVE and not is_refined(data, frame):
        raise ValueError("is a damaged JPEG (its last scans are missing)")
    return pixels


def _whole(data: bytes, frame: Frame, factor: int) -> UInt8[np.ndarray, "h w 3"]:
    try:
        return _pixels(data, frame, factor)
    except ValueError:
        lean = _lean(data, frame)
    try:
        return _pixels(lean, frame, factor)
    except ValueError as error:
        reason = _reason(str(error), data)
        whole = without_rest(lean, frame) if LEFT_OVER in reason and frame.marker in SEQUENTIAL else None
    try:
        if whole is not None:
            return _pixels(whole, frame, factor)
    except ValueError as error:
        reason = _reason(str(error), data)
    raise ValueError(reason)


def _pixels(data: bytes, frame: Frame, factor: int) -> UInt8[np.ndarray, "h w 3"]:
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
    """A chroma subsampling that simplejpeg does not know: Pillow decodes it and notices only a missing end."""
    try:
        with JpegImageFile(BytesIO(data)) as image:
            image.draft(None, (max(1, image.width // factor), max(1, image.height // factor)))
            return np.array(image.convert("RGB"))
    except MemoryError:
        raise
    except Exception:
        raise ValueError("its image data end too soon or are broken") from None


def _lean(data: bytes, frame: Frame) -> bytes:
    """The file without bytes that no pixel depends on but that libjpeg may warn about."""
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
    """Give the progression fields of sequential scan headers their only valid values."""
    at = scans.find(b"\xff\xda")
    while 0 <= at < len(scans) - 10:
        end = at + 2 + (scans[at + 2] << 8 | scans[at + 3])
        scans[end - 3 : end] = b"\0\x3f\0"
        at = scans.find(b"\xff\xda", end)


def _reason(message: str, data: bytes) -> str:
    """What libjpeg says, in a sentence."""
    *_, scan = segments(data)
    if data.find(b"\xff\xd9", scan.end) < 0:
        return "is a truncated JPEG (it has no end mark)"
    message = message.splitlines()[0].rpartition("(): ")[2].removeprefix("Corrupt JPEG data: ").strip()
    return f"is a damaged JPEG ({message[:1].lower()}{message[1:]})"
