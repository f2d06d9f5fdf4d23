"""Originals over their reconstructions, as one picture to look at."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Real, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from imtok.pixels import to_uint8, to_uint16

_PAPER, _INK, _FAINT = (255, 255, 255), (32, 32, 32), (90, 90, 90)
_TILE = 128  # smaller images are enlarged to about this many pixels, without smoothing
_PAIR, _GAP, _BAND, _TEXT = 3, 10, 26, 15  # between a pair, between columns, between bands; size of the letters


def draw_grid(
    originals: Sequence[UInt8[Tensor, "3 _ _"]], reconstructions: Sequence[UInt8[Tensor, "3 _ _"]], columns: int = 8
) -> Image.Image:
    """Bands of originals, each over the band of its reconstructions, with the PSNR of each pair below.

    A pair stands close together, with room around it, so that it is read as one. Pairs go from left to right and then
    down, in the order in which they are given. Every pixel of an image is a square of pixels of the picture.

    Args:
        originals: At least one image; smaller ones lie in the top left corner of their tiles.
        reconstructions: As many.
        columns: Pairs in a band.

    Raises:
        ValueError: If there is no pair, or an image without its counterpart.
    """
    if not originals or len(originals) != len(reconstructions):
        raise ValueError(
            f"originals must be paired with reconstructions, got {len(originals)} and {len(reconstructions)}"
        )
    height, width = (max(image.shape[axis] for image in originals) for axis in (-2, -1))
    scale = max(1, round(_TILE / max(height, width)))
    tile_width, tile_height = width * scale, height * scale
    columns = min(columns, len(originals))
    bands = math.ceil(len(originals) / columns)
    font = ImageFont.load_default(size=_TEXT)
    margin = math.ceil(max(font.getlength(text) for text in ("original", "reconstruction"))) + 2 * _GAP
    band_height = 2 * tile_height + _PAIR + _GAP // 2 + _TEXT
    size = (margin + columns * (tile_width + _GAP), 2 * _GAP + bands * band_height + (bands - 1) * _BAND)
    picture = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(picture)
    for index, pair in enumerate(zip(originals, reconstructions, strict=True)):
        band, column = divmod(index, columns)
        left, top = margin + column * (tile_width + _GAP), _GAP + band * (band_height + _BAND)
        for row, (label, image) in enumerate(zip(("original", "reconstruction"), pair, strict=True)):
            upper = top + row * (tile_height + _PAIR)
            own = (image.shape[-1] * scale, image.shape[-2] * scale)
            picture.paste(to_picture(image).resize(own, Image.Resampling.NEAREST), (left, upper))
            if not column:
                draw.text((margin - _GAP, upper + tile_height / 2), label, _INK, font, anchor="rm")
        error = (pair[0].double() - pair[1].double()).square().mean().item()
        quality = f"{10 * math.log10(255**2 / error):.1f} dB" if error else "exact"
        draw.text((left + tile_width / 2, top + band_height - _TEXT), quality, _FAINT, font, anchor="ma")
    return picture


def to_picture(image: Real[Tensor, "c h w"]) -> Image.Image:
    """Levels of 1, 3 or 4 channels as a Pillow image of 8 bits: grey, RGB or RGBA."""
    levels = image if image.dtype == torch.uint8 else image.round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(rearrange(levels, "c h w -> h w c").squeeze(-1).contiguous().cpu().numpy())


def as_picture(image: Float[Tensor, "c h w"], bits: int = 8) -> Image.Image:
    """An image in ``[-1, 1]`` as a Pillow image of 8 bits per channel, or of 16 bits if it is grey."""
    return to_picture(to_uint8(image)) if bits == 8 else to_deep_picture(image)


def to_deep_picture(image: Float[Tensor, "1 h w"]) -> Image.Image:
    """A grey image in ``[-1, 1]`` as a Pillow image of 16 bits."""
    return Image.fromarray(to_uint16(image)[0].cpu().numpy().astype(np.uint16))
