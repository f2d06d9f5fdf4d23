"""What becomes of written words: character and word error of rendered text, by a reader of our own."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from typing_extensions import override

from imtok.errors import InputError
from imtok.measures.base import EvaluationBatch, Measure, MeasureResult, Number, Quantity
from imtok.measures.inference import Size, evaluating, require_finite
from imtok.measures.report.plots import picture_bytes
from imtok.pixels import as_channels, rgb_levels, to_float, to_levels
from imtok.tokenizer import Tokenizer

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
FONTS = ("DejaVuSansMono", "DejaVuSerif")  # which come with matplotlib
_DARK, _LIGHT = (0, 80), (180, 255)  # levels of text and paper, or the other way round
_SHORTEST, _LONGEST = 3, 7  # characters of a word
_FLAT = 1.0  # deviation of levels below which nothing is written in a cell
_BATCH, _SHOWN = 16, 4


class Page(NamedTuple):
    """An image of text whose layout is known.

    Attributes:
        image: Levels from 0 to 255.
        cells: Row and column of each character, in cells of the font.
        text: Place of each character in :data:`ALPHABET`.
        words: To which word each belongs.
        font: Which of :data:`FONTS`.
    """

    image: Float[Tensor, "1 h w"]
    cells: Int64[Tensor, "n 2"]
    text: Int64[Tensor, " n"]
    words: Int64[Tensor, " n"]
    font: str


@cache
def glyphs(font: str, letters: int) -> Float[Tensor, "alphabet height width"]:
    """How much ink each character leaves in its cell, in [0, 1]; cells of one font are as large as its largest.

    Args:
        font: One of :data:`FONTS`.
        letters: Size of the letters, in pixels.

    Raises:
        InputError: If matplotlib came without the font.
    """
    found = find_spec("matplotlib")
    path = Path(found.origin).parent / "mpl-data" / "fonts" / "ttf" / f"{font}.ttf" if found and found.origin else None
    if path is None or not path.is_file():
        raise InputError(f"measure.text needs {font}.ttf of matplotlib, which is not there; install matplotlib again")
    drawn = ImageFont.truetype(str(path), letters)
    boxes = [drawn.getbbox(one, anchor="ls") for one in ALPHABET]
    left, top = (int(min(box[side] for box in boxes)) for side in (0, 1))
    right, bottom = (int(max(box[side] for box in boxes)) for side in (2, 3))
    cells = []
    for one in ALPHABET:
        cell = Image.new("L", (right - left + 1, bottom - top + 1), 0)
        ImageDraw.Draw(cell).text((-left, -top), one, 255, drawn, anchor="ls")
        cells.append(np.asarray(cell))
    return torch.from_numpy(np.stack(cells)).float() / 255


def written(size: Size, font: str, letters: int, draws: np.random.Generator) -> Page:
    """A page of random words from the top left on, dark on light or light on dark.

    Raises:
        InputError: If no word fits.
    """
    ink = glyphs(font, letters)
    height, width = ink.shape[1:]
    rows, columns = size[0] // height, size[1] // width
    if not rows or columns < _SHORTEST:
        raise InputError(f"a word in letters of {letters} pixels needs larger images than {size[1]}x{size[0]} pixels")
    text, cells, words, count = list[int](), list[tuple[int, int]](), list[int](), 0
    for row in range(rows):
        column = 0
        while columns - column >= _SHORTEST:
            length = int(draws.integers(_SHORTEST, min(_LONGEST, columns - column) + 1))
            cells += [(row, column + place) for place in range(length)]
            text += draws.integers(len(ALPHABET), size=length).tolist()
            words += [count] * length
            column, count = column + length + 1, count + 1
    dark, light = int(draws.integers(*_DARK)), int(draws.integers(*_LIGHT))
    paper, pen = (light, dark) if draws.random() < 0.5 else (dark, light)
    image = torch.zeros(1, *size)
    for (row, column), one in zip(cells, text, strict=True):
        image[0, row * height : (row + 1) * height, column * width : (column + 1) * width] = ink[one]
    levels = (paper + (pen - paper) * image).round()
    return Page(levels, torch.tensor(cells), torch.tensor(text), torch.tensor(words), font)


def read(image: Float[Tensor, "1 h w"], page: Page, letters: int) -> Int64[Tensor, " n"]:
    """What is written in the cells of a page: of each the character whose ink correlates best, -1 where it is blank.

    The reader knows where characters stand and in which font, and neither the words nor what is light and what dark.
    """
    ink = glyphs(page.font, letters)
    height, width = ink.shape[1:]
    grid = image[0].unfold(0, height, height).unfold(1, width, width)
    cells = grid[page.cells[:, 0], page.cells[:, 1]].flatten(1).double()
    templates = ink.flatten(1).double()
    cells, templates = (part - part.mean(1, keepdim=True) for part in (cells, templates))
    likeness = (cells @ (templates / templates.norm(dim=1, keepdim=True)).T).abs()
    return torch.where(cells.square().mean(1).sqrt() > _FLAT, likeness.argmax(1), -1)


class TextMeasure(Measure):
    """Share of characters, and of words, that cannot be read any more after the tokenizer.

    The pages are drawn by this measure and not taken from the data: random characters in fonts that come with
    matplotlib, as many as fit into an image of the size that is measured. What the reader gets wrong on the originals
    stands in the table beside the errors.

    Args:
        images: Pages.
        letters: Size of the letters, in pixels.
        seed: Of the pages.

    Raises:
        ValueError: If a number is out of range.
    """

    quantities = tuple(
        Quantity(
            f"{what}_error",
            f"{what.capitalize()} error of text",
            f"share of {what}s",
            "share of {} of rendered text that a reader by correlation in known cells gets wrong".format(f"{what}s"),
            higher_is_better=False,
            meaning=f"How many {what}s of rendered text cannot be read in the reconstruction.",
        )
        for what in ("character", "word")
    )

    def __init__(self, images: int = 64, letters: int = 12, seed: int = 0) -> None:
        if images < 1 or letters < 5 or seed < 0:
            raise ValueError(
                f"images must be at least 1, letters at least 5 and seed at least 0, got {images}, {letters} and {seed}"
            )
        self.images, self.letters, self.seed = images, letters, seed
        self.pages, self.tokenizer, self.device = list[Page](), None, torch.device("cpu")

    @override
    def missing(self, tokenizer: Tokenizer, size: Size) -> dict[str, str]:
        try:
            self._pages(size)
        except InputError as error:
            return {"character_error": str(error)}
        return {}

    @override
    def start(self, tokenizer: Tokenizer, size: Size) -> None:
        self.pages = [] if self.missing(tokenizer, size) else self._pages(size)
        self.tokenizer: Tokenizer | None = tokenizer

    @override
    def update(self, seen: EvaluationBatch) -> None:
        """Images of the data are not looked at."""

    @override
    def finish(self) -> MeasureResult:
        if self.tokenizer is None or not self.pages:
            return MeasureResult(absent={"character_error": "no word fits into an image of this size"})
        made = self._reconstructed(self.tokenizer)
        errors = {"own": self._errors([page.image for page in self.pages]), "made": self._errors(made)}
        facts = {"images": self.images, "letters": self.letters, "seed": self.seed, "fonts": list(FONTS)}
        table = {
            **facts,
            "characters": sum(len(page.text) for page in self.pages),
            "reader_character_error": errors["own"][0],
            "reader_word_error": errors["own"][1],
        }
        shown = [torch.cat([page.image, image], 1) for page, image in zip(self.pages, made, strict=True)][:_SHOWN]
        names = ("character_error", "word_error")
        return MeasureResult(
            {name: Number(value, facts=facts) for name, value in zip(names, errors["made"], strict=True)},
            tables={"text": table},
            pictures={"Text, and what the tokenizer makes of it": picture_bytes(rgb_levels(torch.cat(shown, 2)))},
        )

    def _pages(self, size: Size) -> list[Page]:
        draws = np.random.default_rng(self.seed)
        return [written(size, FONTS[number % len(FONTS)], self.letters, draws) for number in range(self.images)]

    def _reconstructed(self, tokenizer: Tokenizer) -> list[Float[Tensor, "1 h w"]]:
        """Every page as the tokenizer gives it back, as grey levels."""
        found = list[Tensor]()
        weight = tokenizer.decoder.last_layer
        with evaluating(tokenizer):
            for start in range(0, len(self.pages), _BATCH):
                part = [page.image.to(torch.uint8) for page in self.pages[start : start + _BATCH]]
                image = to_float(torch.stack([as_channels(one, tokenizer.channels) for one in part])).to(weight)
                made = tokenizer(image, condition=tokenizer.condition_for(len(part))).image
                require_finite(made, [f"page {start + row} of text" for row in range(len(part))], "reconstruction")
                grey = rgb_levels(to_levels(made.float())).float().mean(1, keepdim=True)
                found += list(grey.cpu())
        return found

    def _errors(self, images: list[Tensor]) -> tuple[float, float]:
        """Shares of characters and of words that are read wrong."""
        wrong, words, wrong_words, characters = 0, 0, 0, 0
        for image, page in zip(images, self.pages, strict=True):
            missed = read(image, page, self.letters) != page.text
            spoilt = torch.zeros(int(page.words.max()) + 1).index_add_(0, page.words, missed.float()) > 0
            wrong, characters = wrong + int(missed.sum()), characters + len(missed)
            wrong_words, words = wrong_words + int(spoilt.sum()), words + len(spoilt)
        return wrong / characters, wrong_words / words
