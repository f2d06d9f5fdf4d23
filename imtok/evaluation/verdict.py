"""What a report says first: what a tokenizer makes of an image, and its main numbers with what a good value is.

Nothing is called good or bad. A number stands beside what it can be measured against: a PSNR beside that of flat
colours, usage beside the share of codes that so many tokens can show, and others beside what is published.
"""

from dataclasses import dataclass, field

from imtok.evaluation.known import CROPS, PSNR, RFID, near, told
from imtok.evaluation.limits import ceiling, draws, even_use, tokens_for
from imtok.evaluation.results import Report, counted
from imtok.evaluation.titles import is_stand_in, number
from imtok.metrics.frechet import FEW_IMAGES

_PUBLISHED_FID = 50_000
_CODECS = {"jpeg": "JPEG", "webp": "WebP", "avif": "AVIF"}


@dataclass(frozen=True)
class Figure:
    """A main number.

    Attributes:
        name: What it is called.
        value: As text.
        unit: Behind the value.
        good: What a good value is, in sentences.
        cautions: Why this one says less than it seems, in sentences.
    """

    name: str
    value: str
    unit: str
    good: list[str]
    cautions: list[str] = field(default_factory=list)


def lead(report: Report) -> str:
    """What the tokenizer makes of an image, in a sentence."""
    height, width = report.image_size
    name, tokens = report.name or "The tokenizer", report.metrics.get("tokens_per_image")
    images = f"an image of {width}x{height} pixels"
    count = f"{number(tokens)} " if tokens is not None else ""
    if not report.vocab_sizes:
        return f"{name} turns {images} into {count}continuous latents."
    words = f"{name} turns {images} into {count}tokens of {report.bits_per_token:.4g} bits"
    if not tokens:
        return f"{words}."
    size, pixels = tokens * report.bits_per_token / 8, 3 * height * width
    return f"{words}: {number(size)} bytes in place of {pixels:,}, {pixels / size:,.0f} times fewer."


def figures(report: Report) -> list[Figure]:
    """The main numbers of those that were measured, the first one first."""
    made = [_psnr(report), _ssim(report), *_distances(report), _usage(report), _rate(report)]
    return [one for one in made if one is not None]


def share(value: float) -> str:
    """A share in percent; what is not all of it is never 100 %.

    Example:
        >>> share(0.8535), share(0.0123), share(0.9999), share(1.0)
        ('85 %', '1.2 %', '99.9 %', '100 %')
    """
    percent = 100 * value
    if 99.5 <= percent < 100:
        return f"{min(percent, 99.9):.1f} %"
    return f"{percent:.0f} %" if percent >= 10 or percent == 0 else f"{percent:.1f} %"


def _psnr(report: Report) -> Figure | None:
    value, rate = report.metrics.get("psnr"), report.metrics.get("bits_per_pixel")
    if value is None:
        return None
    good = ["More is better, and what is good depends on the rate."]
    if "flat" in report.tables:
        good = [_beside_flat(value, **report.tables["flat"]), *good]
    codecs = _beside_codecs(report)
    points = near(PSNR, rate) if rate is not None else []
    if codecs:
        good.append(codecs)
    elif points:
        good += [*told(points, " dB"), "These are other images: a guide, and no comparison."]
    elif rate is not None:
        good.append(f"We know of no published PSNR near {rate:.2g} bits per pixel.")
    return Figure("PSNR", number(value), "dB", good)


def _beside_flat(value: float, one_colour: float, mean_of_each_image: float) -> str:
    """A PSNR beside those of images without any detail, in a sentence."""
    sides = [
        f"{abs(value - flat):.1f} dB {'above' if value > flat else 'below'} painting {what} ({flat:.2f} dB)"
        for flat, what in (
            (one_colour, "all images in one colour"),
            (mean_of_each_image, "each in its own mean colour"),
        )
    ]
    return f"This is {sides[0]} and {sides[1]}."


def _beside_codecs(report: Report) -> str:
    """What codecs reach on the same images, each at the setting of the nearest size; empty = not measured."""
    rows = report.tables.get("rate") or ()
    own = max((row["bytes"] for row in rows if row["kind"] == "tokens"), default=0)
    words = []
    for kind, name in _CODECS.items():
        settings = [row for row in rows if row["kind"] == kind]
        if settings:
            nearest = min(settings, key=lambda row: abs(row["bytes"] - own))
            words.append(f"{name} {nearest['psnr']:.1f} dB at {nearest['bits_per_pixel']:.2g}")
    return (
        f"On the same images, at the setting of the nearest size: {', '.join(words)} bits per pixel." if words else ""
    )


def _ssim(report: Report) -> Figure | None:
    if "ssim" not in report.metrics:
        return None
    good = [
        "1 means identical.",
        f"On {CROPS}, JPEG has 0.774 at quality 10 (0.33 bits per pixel) and 0.875 at quality 30.",
        "Other ways of computing SSIM give up to 0.08 more, so compare only values of the same convention.",
    ]
    return Figure("SSIM", number(report.metrics["ssim"]), "", good)


def _distances(report: Report) -> list[Figure]:
    """The Fréchet distances: those of published tables, and others, which are called by their nets."""
    made = []
    for name, value in report.metrics.items():
        if name.startswith("rfid_") and not is_stand_in(name):
            made.append(_rfid(report, name, value))
        elif name.startswith(("rfid_", "fd_")):
            good = ["Less is better. It ranks tokenizers on the same images."]
            few = "No published rFID can be compared with it, and it falls with the number of images."
            made.append(Figure(name, number(value), "", good, [few]))
    return made


def _rfid(report: Report, name: str, value: float) -> Figure:
    rate = report.metrics.get("bits_per_pixel")
    good = ["Less is better; 0 means no difference.", *told(near(RFID, rate) if rate is not None else [])]
    few = f"Published values are over {_PUBLISHED_FID:,} images, and the value falls as one over their number."
    if report.images < _PUBLISHED_FID:
        few += f" This one is over {report.images:,}: too large to be compared with them."
    if report.images < FEW_IMAGES:
        few += f" Below {FEW_IMAGES:,} images, the number of features, it needs more images to mean anything."
    return Figure("rFID" if name == "rfid_inception_tf" else name, number(value), "", good, [few])


def _usage(report: Report) -> Figure | None:
    value, tokens, codes = report.metrics.get("usage"), draws(report), report.vocab_sizes
    if value is None or not tokens:
        return None
    most = sum(map(ceiling, tokens, codes)) / len(codes)
    even = sum(map(even_use, tokens, codes)) / len(codes)
    seen = f"{round(value * codes[0]):,} of {codes[0]:,} codes were seen"
    seen = seen if len(codes) == 1 else f"This is the mean over {len(codes)} slots"
    images = f"{counted(report.images)} with {max(tokens):,} tokens{' in a slot' if len(codes) > 1 else ''}"
    if even > 0.9995:
        seen += f". The ceiling is 100 %: {images} are enough to show every code."
    else:
        seen += f". The ceiling is {share(most)}: {images} {'cannot show more' if most < 1 else 'can show every code'}"
        seen += f", and codes drawn evenly at random would show about {share(even)}."
    few = []
    if even < 0.99 and min(tokens):
        each = [tokens_for(0.99, size) * report.images / count for count, size in zip(tokens, codes, strict=True)]
        few = [f"It needs more images: of a codebook of even use about {max(each):,.0f} images would show 99 %."]
    published = "Published over 50,000 images: 96 % of IBQ's 16,384 codes and 84 % of its 262,144."
    return Figure("Codebook usage", share(value), "", [seen, published], few)


def _rate(report: Report) -> Figure | None:
    value = report.metrics.get("bits_per_pixel")
    if value is None:
        return None
    good = [
        "Less is smaller; a picture without compression has 24.",
        "TiTok L-32 has 0.006, LlamaGen VQ-16 0.055, Open-MAGVIT2 0.07 and BSQ-ViT 0.28 to 0.56, all at 256 pixels.",
    ]
    return Figure("Rate", number(value), "bits per pixel", good)
