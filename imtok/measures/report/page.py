"""A report as one HTML file that needs nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import UInt8
from torch import Tensor

from imtok.measures.limits import cautions
from imtok.measures.psnr import PSNR
from imtok.measures.report.briefs import Brief, briefs
from imtok.measures.report.plots import draw_plots, error_map, picture_bytes
from imtok.measures.report.results import Report, counted, millions, speed
from imtok.measures.report.templating import Inlined, render
from imtok.measures.report.terms import Term
from imtok.measures.report.titles import is_stand_in, number, reasons
from imtok.measures.report.verdict import figures, lead
from imtok.measures.ssim import SSIM, WINDOW

_BETTER = {True: "more", False: "less", None: ""}


@dataclass(frozen=True)
class PictureSet:
    """Pictures of one image, to be looked at side by side and to be flipped.

    Attributes:
        name: Of the image.
        pictures: The original first.
        numbers: What was measured on this image, in words.
    """

    name: str
    pictures: list[Inlined]
    numbers: str


def page(report: Report) -> str:
    """The whole report; pictures are inside it, and nothing is fetched from anywhere."""
    own = [name for name in report.metrics if not is_stand_in(name)]
    stand_ins = [name for name in report.metrics if is_stand_in(name)]
    plots = [Inlined(data, f"Plot: {name}", name) for name, data in draw_plots(report).items()]
    return render(
        "report.html",
        heading=report.name or "Evaluation",
        lead=lead(report),
        facts=facts(report),
        figures=figures(report),
        notes=[*map(_sentence, report.warnings), *cautions(report)],
        sets=_sets(report),
        shown=_shown(report),
        rows=[
            *(_row(report, name) for name in own),
            *([report.term(name).title, "not measured", "", ""] for name in report.absent),
        ],
        stand_ins=[_row(report, name) for name in stand_ins],
        absent=reasons(report.absent, lambda name: report.term(name).title),
        slots=_slots(report),
        meanings=meanings([report.term(name) for name in report.metrics]),
        protocol=_protocol(report),
        ids=[_id_row(report, name) for name in report.metrics],
        origin=[*report.about().items(), *([("Command", report.origin.command)] if report.origin.command else [])],
        plots=plots,
        drawings=[Inlined(data, name, name) for name, data in report.drawings.items()],
        briefs=briefs(report),
        bad=report.bad,
    )


def facts(report: Report) -> list[tuple[str, str]]:
    """What the report is of, for its first lines: no hash, no command."""
    size = f"{millions(report.parameters)} parameters" if report.parameters else ""
    told = {
        "Tokenizer": ", ".join(filter(None, (report.origin.tokenizer, size))),
        "Data": report.about()["Data"],
        "Speed": speed(report.speed),
        "Measured": report.when.replace("T", " at ").replace("Z", " UTC"),
    }
    return [(name, words) for name, words in told.items() if words]


def meanings(terms: Sequence[Term]) -> list[tuple[str, str]]:
    """Each number's title and its definition."""
    return [(one.title, one.meaning) for one in terms if one.meaning]


def quality(original: UInt8[Tensor, "3 h w"], image: UInt8[Tensor, "3 h w"]) -> str:
    """PSNR and SSIM of one image, in words; exact where no pixel differs."""
    if bool((original == image).all()):
        return "exact"
    words = f"PSNR {PSNR().per_image(image[None], original[None]).item():.2f} dB"
    if min(image.shape[-2:]) < WINDOW:
        return words
    return f"{words}, SSIM {SSIM().per_image(image[None], original[None]).item():.3f}"


def _sentence(warning: str) -> str:
    """A warning as the other sentences of the page are: with a capital, and a full stop."""
    return warning[:1].upper() + warning[1:] + "." * (not warning.endswith((".", "!", "?")))


def _sets(report: Report) -> list[PictureSet]:
    pictures, sets = report.pictures, list[PictureSet]()
    for key, original, image in zip(pictures.keys, pictures.originals, pictures.reconstructions, strict=True):
        shown = {
            "original": picture_bytes(original),
            "reconstruction": picture_bytes(image),
            "error": error_map(original, image),
        }
        inlined = [Inlined(data, f"{name} of {key}", name) for name, data in shown.items()]
        sets.append(PictureSet(key, inlined, quality(original, image)))
    return sets


def _shown(report: Report) -> str:
    count = len(report.pictures.keys)
    if count == report.images:
        return "All images are shown."
    these = (
        f"{count} of {counted(report.images)} are shown" if count != 1 else f"1 of {counted(report.images)} is shown"
    )
    if report.pictures.named is None:
        return f"{these}, spread evenly over the data."
    return f"{these}. Of candidates that follow one another, the one with the most contrast was taken."


def _row(report: Report, name: str) -> list[str]:
    title, unit, _ = report.term(name)
    return [title, number(report.metrics[name]), unit, _BETTER[report.higher_is_better.get(name)]]


def _id_row(report: Report, name: str) -> list[str]:
    facts, convention = report.ids.get(name, {}), report.conventions.get(name, "")
    return [report.term(name).title, name, f"{report.images:,}", facts.get("id", ""), convention]


def _slots(report: Report) -> Brief | None:
    if len(report.slots) < 2:
        return None
    names = list(report.slots[0])
    rows = [
        [str(slot), f"{size:,}", *(number(values[name]) for name in names)]
        for slot, (size, values) in enumerate(zip(report.vocab_sizes, report.slots, strict=True))
    ]
    return Brief("Slots", ["Slot", "Vocabulary", *(report.term(name).title for name in names)], rows)


def _protocol(report: Report) -> str:
    settings = ", ".join(f"{key} {value}" for key, value in report.protocol.items() if value not in ([], None))
    return f"Protocol: {settings}." if settings else ""
