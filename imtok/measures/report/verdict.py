"""What a report says first: what a tokenizer makes of an image, and its main numbers with what a good value is.

Nothing is called good or bad. A number stands beside what it can be measured against: a PSNR beside that of flat
colours, usage beside the share of codes that so many tokens can show, and others beside what is published.
"""

from dataclasses import dataclass, field

from imtok.measures.frechet import FEW_IMAGES
from imtok.measures.limits import ceiling, draws, even_use, tokens_for
from imtok.measures.report.known import CROPS, PSNR, RFID, bits, near, told
from imtok.measures.report.results import Report, counted, sized
from imtok.measures.report.titles import amount, is_stand_in, number, share

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
    turns = f"{name} turns an image of {sized(report.image_size)} into"
    what = "token" if report.vocab_sizes else "continuous latent"
    count = f"{what}s" if tokens is None else amount(tokens, what)
    average = "" if tokens is None or float(tokens).is_integer() else " on average"
    if not report.vocab_sizes:
        return f"{turns} {count}{average}."
    words = f"{turns} {count} of {amount(report.bits_per_token, 'bit')}{average}"
    if not tokens or not report.bits_per_token or not height * width:
        return f"{words}."
    channels = report.protocol.get("channels", 3)
    size, pixels = tokens * report.bits_per_token / 8, channels * height * width
    return f"{words}: {amount(size, 'byte')} in place of {pixels:,}, {_fewer(pixels / size)}."


def _fewer(times: float) -> str:
    """How much is saved, in words.

    Example:
        >>> _fewer(682.7), _fewer(1.52), _fewer(0.6)
        ('683 times fewer', '1.5 times fewer', 'which saves nothing')
    """
    if times < 1.05:
        return "which saves nothing"
    return f"{times:,.0f} times fewer" if times >= 10 else f"{times:.1f} times fewer"


def figures(report: Report) -> list[Figure]:
    """The main numbers of those that were measured, the first one first."""
    made = [_psnr(report), _ssim(report), *_distances(report), _usage(report), _rate(report)]
    return [one for one in made if one is not None]


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
        good.append(f"We know of no published PSNR near {bits(rate)} bits per pixel.")
    return Figure("PSNR", number(value), "dB", good)


def _beside_flat(value: float, one_colour: float, mean_of_each_image: float) -> str:
    """A PSNR beside those of images without any detail, in a sentence."""
    sides = [
        f"{_away(value - flat)} painting {what} ({flat:.2f} dB)"
        for flat, what in (
            (one_colour, "all images in one colour"),
            (mean_of_each_image, "each in its own mean colour"),
        )
    ]
    return f"This is {sides[0]} and {sides[1]}."


def _away(difference: float) -> str:
    if abs(difference) < 0.05:
        return "level with"
    return f"{abs(difference):.1f} dB {'above' if difference > 0 else 'below'}"


def _beside_codecs(report: Report) -> str:
    """What codecs reach on the same images, each at the setting of the nearest size; empty = not measured."""
    rows = report.tables.get("rate") or ()
    own = max((row["bytes"] for row in rows if row["kind"] == "tokens"), default=0)
    words = []
    for kind, name in _CODECS.items():
        settings = [row for row in rows if row["kind"] == kind]
        if settings:
            nearest = min(settings, key=lambda row: abs(row["bytes"] - own))
            words.append(f"{name} {nearest['psnr']:.1f} dB at {bits(nearest['bits_per_pixel'])}")
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
    points = near(RFID, rate) if rate is not None else []
    good = ["Less is better; 0 means no difference.", *told(points)]
    if points:
        good.append("Only a value over the same images, by the same protocol, can be compared with these.")
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
    images = f"{counted(report.images)} with {amount(max(tokens), 'token')} in {'a slot' if len(codes) > 1 else 'all'}"
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
        "TiTok L-32 has 0.0059, LlamaGen VQ-16 0.055, Open-MAGVIT2 0.070 and BSQ-ViT 0.28 to 0.56, all at 256 pixels.",
    ]
    return Figure("Rate", number(value), "bits per pixel", good)
