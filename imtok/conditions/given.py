"""What a command says of a condition: one quality or label for all images, and where a named net lies."""

import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imtok.conditions.base import Conditioner
from imtok.conditions.named import NamedText
from imtok.conditions.quality import Quality
from imtok.conditions.text import TextTower
from imtok.errors import InputError


@dataclass
class ConditionConfig:
    """The section ``condition`` of commands that take a finished tokenizer.

    Attributes:
        quality: A wanted quality for all images; None = the tokenizer's own.
        label: A class for all images; None = their own.
        weights: Path of the frozen net that the tokenizer names; None = the cache of the hub.
        cache: Folder of text features that ``imtok pack`` wrote; None = the text tower reads the captions.
        missing: Take images that lack a caption or a label that is read as ones of which nothing is said; False =
            refuse the first of them by name.
    """

    quality: float | None = None
    label: int | None = None
    weights: str | None = None
    cache: str | None = None
    missing: bool = False

    def check(self) -> list[str]:
        """What is out of range, one line each."""
        problems = []
        if self.quality is not None and not (math.isfinite(self.quality) and self.quality > 0):
            problems.append(f"condition.quality must be a positive number, got {self.quality}")
        if self.label is not None and self.label < 0:
            problems.append(f"condition.label must not be negative, got {self.label}")
        return problems

    @property
    def facts(self) -> dict[str, Any]:
        """What decides results, as plain values; empty if the tokenizer's own condition does."""
        return {name: value for name in ("quality", "label") if (value := getattr(self, name)) is not None}


@dataclass
class DecodeConditionConfig(ConditionConfig):
    """The same for ids, about which nothing but the file itself may be known.

    Attributes:
        captions: A text file with a line for each image; None = those of the token store.
    """

    captions: str | None = None


def read_captions(path: str, images: int) -> list[str]:
    """The lines of a text file, one for each of so many images.

    Raises:
        InputError: If it cannot be read, or has another number of lines.
    """
    try:
        lines = Path(path).expanduser().read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise InputError(f"condition.captions={path} cannot be read ({reason})") from None
    if len(lines) != images:
        raise InputError(f"condition.captions={path} must have a line for each of {images} images, got {len(lines)}")
    return lines


def give(condition: Conditioner | None, takes: Collection[str], given: ConditionConfig) -> Conditioner | None:
    """The condition of a tokenizer as a command wants it, ready for use.

    Args:
        condition: The tokenizer's own; None = it has none.
        takes: The kinds that its encoder and decoder look at.
        given: What the command says.

    Raises:
        InputError: If nothing reads what is given, or what the condition needs cannot be had.
    """
    if given.quality is not None:
        if condition is None and "quality" in takes:
            condition = Quality(given.quality)
        if condition is None or not {"quality"} & {*takes, *condition.gives}:
            raise InputError(f"condition.quality={given.quality:g}: no part of this tokenizer reads a wanted quality")
        condition.every_quality = given.quality
    if given.label is not None:
        if condition is None or "label" not in condition.reads:
            raise InputError(f"condition.label={given.label}: no part of this tokenizer reads a label")
        if condition.classes is not None and given.label >= condition.classes:
            raise InputError(f"condition.label must be below {condition.classes}, got {given.label}")
        condition.every_label = given.label
    if given.weights is not None:
        if not isinstance(condition, NamedText):
            raise InputError(f"condition.weights={given.weights}: this tokenizer names no frozen net")
        condition.weights = given.weights
    if given.cache is not None:
        if not isinstance(condition, TextTower):
            raise InputError(f"condition.cache={given.cache}: this tokenizer names no text tower")
        condition.cache = given.cache
    if condition is not None:
        condition.prepare()
    return condition
