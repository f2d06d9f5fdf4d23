"""Several reports on one HTML page: their numbers, and the same images as each tokenizer makes them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import UInt8
from torch import Tensor

from imtok.measures.pictures import Pictures
from imtok.measures.report.compare import Comparison
from imtok.measures.report.origin import describe_data
from imtok.measures.report.page import PictureSet, meanings, quality
from imtok.measures.report.plots import picture_bytes
from imtok.measures.report.results import counted, millions, sized, speed
from imtok.measures.report.templating import Inlined, render
from imtok.measures.report.titles import number


@dataclass(frozen=True)
class Side:
    """One of the reports.

    Attributes:
        name: What it is called.
        values: Of its ``report.json``.
        pictures: What it shows; None = it keeps none.
    """

    name: str
    values: dict[str, Any]
    pictures: Pictures | None


def comparison_page(compared: Comparison, sides: Sequence[Side]) -> str:
    """The whole comparison; pictures are inside it, and nothing is fetched from anywhere.

    Args:
        compared: Their numbers.
        sides: The reports, in the order in which they were compared.
    """
    names = [side.name for side in sides]
    sets, remark = align(sides)
    terms = {row.metric: row.term for row in compared.rows}
    ids = [[one.title, *(_id(side, name) for side in sides)] for name, one in terms.items()]
    return render(
        "comparison.html",
        heading=f"Comparison of {', '.join(names)}",
        names=names,
        facts=_facts(sides),
        rows=[[row.term.heading, *row.cells()] for row in compared.rows],
        legend=compared.legend(),
        refused=compared.refused,
        sets=sets,
        remark=remark,
        meanings=meanings([row.term for row in compared.rows]),
        ids=ids,
    )


def align(sides: Sequence[Side]) -> tuple[list[PictureSet], str]:
    """The images that all reports show, and a sentence about those that cannot stand side by side.

    Images are the same if all pixels of their originals are; a name may be that of another crop.
    """
    without = [side.name for side in sides if side.pictures is None or not side.pictures.keys]
    if without:
        return [], f"There are no pictures side by side, since {' and '.join(without)} kept none; evaluate again."
    shown = [_by_original(side.pictures) for side in sides if side.pictures is not None]
    common = [original for original in shown[0] if all(original in other for other in shown[1:])]
    sizes = [f"{side.name} of {_size(side.values)}" for side in sides]
    if not common:
        return [], f"There are no pictures side by side, since no image is the same in all: {', '.join(sizes)}."
    sets = list[PictureSet]()
    for original in common:
        key, pixels, _ = shown[0][original]
        pictures, numbers = [Inlined(picture_bytes(pixels), f"original of {key}", "original")], list[str]()
        for side, images in zip(sides, shown, strict=True):
            _, _, image = images[original]
            pictures.append(Inlined(picture_bytes(image), f"{key} by {side.name}", side.name))
            numbers.append(f"{side.name}: {quality(pixels, image)}")
        sets.append(PictureSet(key, pictures, "; ".join(numbers)))
    most = max(map(len, shown))
    return sets, "" if len(
        common
    ) == most else f"{len(common)} of {most} images are shown by all; the others are left out."


def _by_original(pictures: Pictures) -> dict[Any, tuple[str, UInt8[Tensor, "3 h w"], UInt8[Tensor, "3 h w"]]]:
    """Name, original and reconstruction of each image, by the pixels of its original."""
    return {
        (tuple(original.shape), original.numpy().tobytes()): (key, original, image)
        for key, original, image in zip(pictures.keys, pictures.originals, pictures.reconstructions, strict=True)
    }


def _facts(sides: Sequence[Side]) -> list[list[str]]:
    """What is known of each report, as rows; what none of them says has no row."""
    made = {
        "Tokenizer": [str(side.values.get("tokenizer", "")) for side in sides],
        "Tokens": [_tokens(side.values) for side in sides],
        "Bits per image": [_bits(side.values) for side in sides],
        "Parameters": [millions(count) if count else "" for count in _each(sides, "parameters")],
        "Speed": [speed(side.values.get("speed", {})) for side in sides],
        "Data": [_data(side.values) for side in sides],
        "Measured": [str(when or "").replace("T", " at ").replace("Z", " UTC") for when in _each(sides, "when")],
    }
    return [[name, *cells] for name, cells in made.items() if any(cells)]


def _each(sides: Sequence[Side], name: str) -> list[Any]:
    return [side.values.get(name) for side in sides]


def _tokens(values: Mapping[str, Any]) -> str:
    """How many tokens of how many bits an image becomes."""
    tokens = values["metrics"].get("tokens_per_image")
    bits = f"{values.get('bits_per_token', 0):.4g} bits" if values.get("vocab_sizes") else "continuous"
    return f"{number(tokens)} x {bits}" if tokens is not None else bits


def _bits(values: Mapping[str, Any]) -> str:
    """Nominal bits of an image: its tokens times their bits; empty = not known, or there are no ids."""
    tokens = values["metrics"].get("tokens_per_image")
    if tokens is None or not values.get("vocab_sizes"):
        return ""
    return number(tokens * values.get("bits_per_token", 0))


def _data(values: Mapping[str, Any]) -> str:
    images = f"{counted(values.get('images', 0))} of {_size(values)}"
    return ": ".join(filter(None, (describe_data(values.get("data", {})), images)))


def _size(values: Mapping[str, Any]) -> str:
    height, width = values.get("image_size", (0, 0))
    return sized((height, width))


def _id(side: Side, metric: str) -> str:
    return str(side.values["protocol_ids"].get(metric, {}).get("id", ""))
