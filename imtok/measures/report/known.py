"""What codecs and published tokenizers reach: guides to the size of a number, on other images than one's own."""

import math
from collections.abc import Iterable
from typing import NamedTuple

CROPS = "64 crops of photographs, 256 pixels a side"
_IMAGENET = "ImageNet's validation images"


class Point(NamedTuple):
    """What somebody reaches.

    Attributes:
        who: A codec at its setting, or a published tokenizer.
        rate: Bits per pixel; those of a codec with its header.
        value: The number.
        images: On which images.
    """

    who: str
    rate: float
    value: float
    images: str


# Codecs: mean bytes and mean PSNR of Pillow's, on crops of the bundled photographs. Tokenizers: PSNR as READMEs of
# Open-MAGVIT2 (also of Cosmos), SimVQ and BSQ-ViT and DualToken's project page give it, rates from tokens and bits.
PSNR = (
    Point("JPEG 2000", 0.050, 19.3, CROPS),
    Point("Cosmos FSQ", 0.062, 19.93, _IMAGENET),
    Point("Open-MAGVIT2", 0.070, 21.90, _IMAGENET),
    Point("JPEG 2000", 0.121, 22.7, CROPS),
    Point("AVIF", 0.127, 24.9, CROPS),
    Point("JPEG", 0.134, 20.8, CROPS),
    Point("WebP", 0.151, 25.0, CROPS),
    Point("JPEG", 0.203, 23.4, CROPS),
    Point("SimVQ at 128 pixels", 0.250, 24.15, _IMAGENET),
    Point("BSQ-ViT with 18 bits", 0.281, 25.36, _IMAGENET),
    Point("WebP", 0.282, 27.4, CROPS),
    Point("AVIF", 0.312, 28.9, CROPS),
    Point("JPEG", 0.331, 26.1, CROPS),
    Point("WebP", 0.440, 29.4, CROPS),
    Point("JPEG", 0.533, 28.4, CROPS),
    Point("BSQ-ViT with 36 bits", 0.562, 27.88, _IMAGENET),
    Point("JPEG", 0.954, 31.0, CROPS),
    Point("DualToken at 378 pixels", 1.143, 28.69, _IMAGENET),
)

# As their authors give it, on the 50,000 validation images at 256 pixels; their protocols differ.
RFID = (
    Point("TiTok L-32", 0.006, 2.21, _IMAGENET),
    Point("TiTok B-64", 0.012, 1.70, _IMAGENET),
    Point("TiTok S-128", 0.023, 1.71, _IMAGENET),
    Point("VQGAN", 0.055, 4.98, _IMAGENET),
    Point("LlamaGen VQ-16", 0.055, 2.19, _IMAGENET),
    Point("GigaTok B-L", 0.055, 0.81, _IMAGENET),
    Point("Open-MAGVIT2", 0.070, 1.17, _IMAGENET),
    Point("LlamaGen VQ-8", 0.219, 0.59, _IMAGENET),
    Point("BSQ-ViT with 18 bits", 0.281, 1.14, _IMAGENET),
    Point("BSQ-ViT with 36 bits", 0.562, 0.41, _IMAGENET),
)


def near(points: Iterable[Point], rate: float, most: int = 4) -> list[Point]:
    """The points whose rate is nearest, at most a factor of 1.6 away, by rate.

    Example:
        >>> [point.who for point in near(PSNR, 1.0)]
        ['JPEG', 'DualToken at 378 pixels']
        >>> near(PSNR, 24.0)
        []
    """
    if rate <= 0:
        return []
    found = sorted((abs(math.log(point.rate / rate)), point) for point in points)
    return sorted((point for far, point in found[:most] if far < math.log(1.6)), key=lambda point: point.rate)


def told(points: Iterable[Point], unit: str = "") -> list[str]:
    """Points in words, a sentence for each set of images.

    Example:
        >>> told(near(PSNR, 1.0), " dB")[0]
        'On 64 crops of photographs, 256 pixels a side: JPEG 31.0 dB at 0.95 bits per pixel.'
    """
    digits = 1 if unit else 2
    groups: dict[str, list[str]] = {}
    for point in points:
        groups.setdefault(point.images, []).append(f"{point.who} {point.value:.{digits}f}{unit} at {bits(point.rate)}")
    return [f"On {images}: {', '.join(words)} bits per pixel." for images, words in groups.items()]


def bits(rate: float) -> str:
    """A rate, with two digits.

    Example:
        >>> [bits(rate) for rate in (0.0703, 0.2, 9.0, 315.0)]
        ['0.070', '0.20', '9.0', '315']
    """
    return f"{rate:.0f}" if rate >= 9.95 else f"{rate:#.2g}"
