"""Bytes to pixels: uint8 RGB, or the channels that are asked for, or a named error; never a crash.

JPEG is decoded as :mod:`imtok.data.reading.jpeg` says, all else by Pillow: torchvision's PNG decoder can end the
process on damaged files. The plug-ins are called directly, so that no other format can be reached, whatever the file
claims to be. Colour profiles and gamma are ignored.
"""

import warnings
from io import BytesIO

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Real, UInt8
from PIL import AvifImagePlugin, Image
from PIL.AvifImagePlugin import AvifImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile
from torch import Tensor

from imtok.data.reading.headers import Header, read_header
from imtok.data.reading.jpeg import decode_jpeg
from imtok.data.reading.jpeg_header import information, read_frame
from imtok.data.reading.png import MAGIC, load_png, read_mode
from imtok.errors import InputError
from imtok.pixels import FINE, as_channels

MAX_PIXELS = 64_000_000
PLUGINS = {"WebP": WebPImageFile, "AVIF": AvifImageFile}
WHITE = (255, 255, 255)
ORIENTATION = 0x0112
TURNED = 5  # from this orientation on, rows are stored as columns
AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # a loader's workers are as many as they should be
warnings.filterwarnings("ignore", module=r"PIL\.")  # of EXIF blocks and animations, on which no pixel depends


class DecodeError(InputError):
    """An image that cannot be decoded; reads ``name: reason``."""


def decode_image(
    data: bytes,
    name: str,
    max_pixels: int = MAX_PIXELS,
    background: tuple[int, int, int] = WHITE,
    least: int | None = None,
    channels: int = 3,
) -> Real[Tensor, "c h w"]:
    """Decode a JPEG, PNG, WebP or (where Pillow can) AVIF, upright, as 8-bit RGB.

    With ``channels=1`` as grey levels in float32, which keep the fractions of 16-bit grey: 65,536 levels in [0, 255].
    With ``channels=4`` as 8-bit RGB and alpha, where nothing shows through; opaque where a file has no alpha.

    Grey becomes RGB, CMYK is converted, 16-bit grey is scaled by 1/257 (of 16-bit colour the high bytes are taken),
    transparency shows ``background``; of an animation the first frame is taken.

    Args:
        data: The file's bytes. The type is told from them, not from a name.
        name: What errors call it: a path, or ``shard:member``.
        max_pixels: Larger images are refused by what their header says.
        background: Red, green and blue in [0, 255].
        least: A JPEG may be decoded at a half, a quarter or an eighth of its size (from fewer coefficients of each
            block, in a fraction of the time) as long as its short side keeps so many pixels; None = at its own size.
        channels: 1, 3 or 4.

    Raises:
        DecodeError: If it is of another type, damaged, truncated or too large.

    Example:
        >>> file = BytesIO()
        >>> Image.new("LA", (4, 2), (0, 0)).save(file, "PNG")
        >>> decode_image(file.getvalue(), "clear.png", background=(9, 8, 7))[:, 0, 0]
        tensor([9, 8, 7], dtype=torch.uint8)
    """
    try:
        header = read_header(data)
        _check_pixels(header.height, header.width, max_pixels)
        if header.format == "JPEG":
            image = Image.Image()  # which knows how to read what EXIF and XMP say
            image.info |= information(data)
            pixels = torch.from_numpy(decode_jpeg(data, _factor(header, least)))
            return _upright(as_channels(rearrange(pixels, "h w c -> c h w"), channels), _orientation(image))
        with _load(data, header, max_pixels) as image:
            return _upright(_pixels(image, background, channels), _orientation(image))
    except MemoryError:
        raise DecodeError(f"{name}: does not fit into memory") from None
    except Exception as error:  # decoders raise many kinds: OSError, SyntaxError, ValueError, RuntimeError, zlib.error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DecodeError(f"{name}: {reason}") from None


def upright_shape(data: bytes, name: str) -> tuple[int, int]:
    """Height and width of an image as :func:`decode_image` gives it, from its header alone.

    Args:
        data: The file's bytes. Of a JPEG or PNG the first ones do, if they hold its header; an orientation that a PNG
            names behind its pixels is not seen then.
        name: The name in error messages.

    Raises:
        DecodeError: If the header is of another type, damaged or incomplete.
    """
    upright = Image.Image()  # which knows how to read what EXIF and XMP say
    try:
        if data.startswith(MAGIC):
            with PngImageFile(BytesIO(data)) as image:
                height, width = image.height, image.width
                upright.info |= image.info
        else:
            header = read_header(data)
            height, width = header.height, header.width
            if header.format == "JPEG":
                upright.info |= information(data)
            else:
                with PLUGINS[header.format](BytesIO(data)) as image:
                    upright.info |= image.info
    except Exception as error:  # as of decode_image
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DecodeError(f"{name}: {reason}") from None
    return (width, height) if _orientation(upright) >= TURNED else (height, width)


def picture_pixels(
    image: Image.Image,
    max_pixels: int | None = None,
    background: tuple[int, int, int] = WHITE,
    channels: int = 3,
) -> Real[Tensor, "c h w"]:
    """A PIL image of any mode as :func:`decode_image` gives the same picture in a file: upright, 8-bit RGB.

    Args:
        image: The image. One in mode I or F is taken as 16-bit grey.
        max_pixels: Larger images are refused; None = none is.
        background: Red, green and blue in [0, 255].
        channels: 1, 3 or 4, as :func:`decode_image` has them.

    Raises:
        DecodeError: If it is too large, is in a mode that says nothing of red, green and blue, such as LAB, or cannot
            be loaded.
    """
    try:
        if max_pixels is not None:
            _check_pixels(image.height, image.width, max_pixels)
        if image.mode in ("LAB", "La"):
            raise ValueError(f"is in mode {image.mode}, which Pillow cannot bring to RGB")
        return _upright(_pixels(image, background, channels), _orientation(image))
    except (OSError, SyntaxError, ValueError) as error:
        raise DecodeError(f"a PIL image: {error or type(error).__name__}") from None


def _check_pixels(height: int, width: int, max_pixels: int) -> None:
    if height < 1 or width < 1:
        raise ValueError(f"says that it has {width} x {height} pixels")
    if height * width > max_pixels:
        raise ValueError(f"has {width} x {height} pixels, more than max_pixels={max_pixels}")


def stored_mode(data: bytes) -> str:
    """Pillow's name for the colours that a file stores: RGB, L, CMYK, P, ...

    Args:
        data: A file that can be decoded.
    """
    header = read_header(data)
    if header.format == "JPEG":
        return read_frame(data).mode
    if header.format == "PNG":
        return read_mode(data)
    with PLUGINS[header.format](BytesIO(data)) as image:
        return image.mode


def _factor(header: Header, least: int | None) -> int:
    """By how much a JPEG may be decoded smaller: 1, 2, 4 or 8."""
    if least is None:
        return 1
    short = min(header.height, header.width)
    scale = min(side // max(1, side * least // short) for side in (header.height, header.width))
    return next(factor for factor in (8, 4, 2, 1) if scale >= factor or factor == 1)


def _load(data: bytes, header: Header, max_pixels: int) -> Image.Image:
    """Decode what is no JPEG; ValueError if it is damaged."""
    if header.format == "PNG":
        image = load_png(data)
        _scale_transparent(image, depth=data[24])
        return image
    try:
        image = PLUGINS[header.format](BytesIO(data))
    except Exception:
        raise ValueError(f"is a damaged {header.format} (its header cannot be read)") from None
    _check_pixels(image.height, image.width, max_pixels)  # a second header may tell another size
    try:
        image.load()
    except MemoryError:
        raise
    except Exception:
        raise ValueError(f"is a damaged {header.format} (its image data end too soon or are broken)") from None
    return image


def _scale_transparent(image: Image.Image, depth: int) -> None:
    """Bring the colour that a PNG names as transparent to 8 bits; Pillow does so to the pixels alone."""
    level = image.info.get("transparency")
    if isinstance(level, int) and image.mode == "L" and depth < 8:
        image.info["transparency"] = (level & 2**depth - 1) * 255 // (2**depth - 1)
    elif isinstance(level, tuple) and depth == 16:
        image.info["transparency"] = tuple(part >> 8 for part in level)


def _pixels(image: Image.Image, background: tuple[int, int, int], channels: int) -> Real[Tensor, "c h w"]:
    """Pixels of any mode, with so many channels."""
    if channels == 1 and image.mode.startswith("I"):  # 16-bit grey, of which every level is kept
        levels, transparent = np.asarray(image).astype(np.float32), image.info.get("transparency")
        shade = as_channels(torch.tensor(background, dtype=torch.uint8).view(3, 1, 1), 1).item()
        grey = levels / np.float32(FINE)
        return torch.from_numpy(grey if transparent is None else np.where(levels == transparent, shade, grey))[None]
    if channels == 4 and not image.mode.startswith("I"):
        return rearrange(torch.from_numpy(np.array(image.convert("RGBA"))), "h w c -> c h w")
    return as_channels(rearrange(torch.from_numpy(_rgb(image, background)), "h w c -> c h w"), channels)


def _rgb(image: Image.Image, background: tuple[int, int, int]) -> UInt8[np.ndarray, "h w 3"]:
    """Pixels of any mode, composited over the background where they are transparent."""
    transparent = image.info.get("transparency")
    if image.mode.startswith("I"):  # 16-bit grey, where Pillow's own conversion saturates
        levels = np.asarray(image).astype(np.uint32)
        grey = np.repeat(((levels + 128) // 257).astype(np.uint8)[..., None], 3, axis=-1)
        return grey if transparent is None else np.where((levels == transparent)[..., None], _row(background), grey)
    if transparent is None and image.mode in ("RGB", "L", "1", "P", "CMYK"):
        return np.array(image if image.mode == "RGB" else image.convert("RGB"))
    pixels = np.asarray(image.convert("RGBA")).astype(np.uint16)
    colour, alpha = pixels[..., :3], pixels[..., 3:]
    return ((colour * alpha + _row(background) * (255 - alpha) + 127) // 255).astype(np.uint8)


def _row(background: tuple[int, int, int]) -> UInt8[np.ndarray, "3"]:
    return np.array(background, dtype=np.uint8)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 = upright also where the EXIF block is damaged."""
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
    except Exception:  # the picture itself is whole
        return 1
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def _upright(image: Real[Tensor, "c height width"], orientation: int) -> Real[Tensor, "c h w"]:
    if orientation >= TURNED:
        image = image.mT
    if orientation in (2, 3, 6, 7):  # columns run backwards
        image = image.flip(-1)
    if orientation in (3, 4, 7, 8):
        image = image.flip(-2)
    return image
