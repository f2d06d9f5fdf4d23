"""What an evaluation found, and where it comes from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from math import isfinite
from typing import Any

import numpy as np

from imtok.measures.pictures import Pictures
from imtok.measures.report.origin import Origin, describe_data
from imtok.measures.report.terms import Term, term
from imtok.measures.report.titles import is_stand_in

SCHEMA = 3


@dataclass(frozen=True)
class Report:
    """What an evaluation found.

    Attributes:
        images: How many images every number is over.
        image_size: Their height and width, in pixels; (0, 0) = each has its own.
        vocab_sizes: Number of ids of each slot.
        bits_per_token: Nominal.
        metrics: Values by name; over all slots where there are several.
        slots: The code statistics of each slot.
        conventions: How each metric is computed, by name: compare only numbers of the same convention.
        absent: Why a metric is not among ``metrics``, by name.
        bad: ``key: reason`` for every sample that could not be decoded; no number includes them.
        pictures: Originals and reconstructions to look at.
        protocol: What all numbers have in common: preset, crop, number and hash of images, which weights.
        ids: For each metric the ``id`` of its protocol and all that went into it. Numbers of different ids must not
            be compared.
        terms: What each number is called (``title``), its ``unit`` and ``meaning``, by name, as its class says.
        higher_is_better: Whether a larger value is the better one, by name; None = neither is.
        tables: Longer results by name: rate, pfid, language, ...
        arrays: Counts and ids for ``codes.npz``.
        drawings: PNG files by title.
        warnings: What to bear in mind.
        name: Of the tokenizer.
        tokenizer: Its hash; empty = not known.
        parameters: Numbers that it has learnt, without a frozen space; 0 = not known.
        speed: How fast the tokenizer encoded and decoded on this machine: ``images_per_second``, over how many
            ``images``, and the ``device``; empty = not known.
        when: In UTC, to the second; empty = not known.
        origin: Data, split, tokenizer and command that it is of.
    """

    images: int
    image_size: tuple[int, int]
    vocab_sizes: tuple[int, ...]
    bits_per_token: float
    metrics: dict[str, float]
    slots: list[dict[str, float]]
    conventions: dict[str, str]
    absent: dict[str, str]
    bad: list[str]
    pictures: Pictures
    protocol: dict[str, Any] = field(default_factory=dict)
    ids: dict[str, dict[str, Any]] = field(default_factory=dict)
    terms: dict[str, dict[str, str]] = field(default_factory=dict)
    higher_is_better: dict[str, bool | None] = field(default_factory=dict)
    tables: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    drawings: dict[str, bytes] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    name: str = ""
    tokenizer: str = ""
    parameters: int = 0
    speed: dict[str, Any] = field(default_factory=dict)
    when: str = ""
    origin: Origin = field(default_factory=Origin)

    def values(self) -> dict[str, Any]:
        """Everything but the pictures, as plain values for JSON."""
        return {
            "schema": SCHEMA,
            "name": self.name,
            "data": {
                **self.origin.about_data(),
                "images": self.images,
                "unreadable": len(self.bad),
                "image_size": list(self.image_size),
            },
            "when": self.when,
            "tokenizer": self.origin.tokenizer,
            "tokenizer_sha256": self.tokenizer,
            "parameters": self.parameters,
            "speed": self.speed,
            "command": self.origin.command,
            "images": self.images,
            "image_size": list(self.image_size),
            "vocab_sizes": list(self.vocab_sizes),
            "bits_per_token": self.bits_per_token,
            "metrics": {name: value for name, value in self.metrics.items() if isfinite(value)},
            "slots": self.slots,
            "conventions": self.conventions,
            "absent": self.absent | {name: f"its value is {value}" for name, value in self._not_finite.items()},
            "stand_ins": [name for name in self.metrics if is_stand_in(name)],
            "protocol": self.protocol,
            "protocol_ids": self.ids,
            "terms": self.terms,
            "higher_is_better": self.higher_is_better,
            "tables": self.tables,
            "warnings": self.warnings,
            "bad": self.bad,
            "versions": {package: package_version(package) for package in ("imtok", "torch")},
        }

    @property
    def _not_finite(self) -> dict[str, float]:
        """Numbers that JSON cannot hold."""
        return {name: value for name, value in self.metrics.items() if not isfinite(value)}

    def term(self, name: str) -> Term:
        """What a number is called and means."""
        return term(name, self.terms)

    def heading(self, name: str) -> str:
        """What a number is called, with its unit."""
        return self.term(name).heading

    def about(self) -> dict[str, str]:
        """What the numbers are of, in words by title: data, images, tokenizer, time and version."""
        bad = len(self.bad)
        images = f"{counted(self.images)} of {sized(self.image_size)}"
        unreadable = f"; {bad} more could not be read and {'is' if bad == 1 else 'are'} not counted" if bad else ""
        told = {
            "Data": f"{': '.join(filter(None, (describe_data(self.origin.about_data()), images)))}{unreadable}",
            "Tokenizer": ", ".join(
                filter(None, (self.origin.tokenizer, self.tokenizer and f"sha256 {self.tokenizer}"))
            ),
            "When": ", ".join(filter(None, (self.when, f"imtok {package_version('imtok')}"))),
        }
        return {name: words for name, words in told.items() if words}


def summary(report: Report) -> str:
    """What was measured, in a line."""
    slots = " + ".join(str(size) for size in report.vocab_sizes)
    codes = f"{slots} codes, {report.bits_per_token:g} bits per token" if slots else "continuous latents"
    return f"{counted(report.images)} of {sized(report.image_size)}, {codes}"


def sized(size: tuple[int, int]) -> str:
    """Height and width of images, in words; (0, 0) = each has its own."""
    return f"{size[1]}x{size[0]} pixels" if any(size) else "many sizes"


def counted(images: int) -> str:
    """A number of images, in words."""
    return f"{images:,} image{'s' * (images != 1)}"


def millions(count: int) -> str:
    """A number of parameters, in words.

    Example:
        >>> millions(1_040_000), millions(22_500)
        ('1.0 million', '22,500')
    """
    return f"{count / 1e6:,.1f} million" if count >= 100_000 else f"{count:,}"


def speed(found: Mapping[str, Any]) -> str:
    """How fast a tokenizer was, in words; empty = not known."""
    if "images_per_second" not in found:
        return ""
    return f"{found['images_per_second']:.3g} images/s encoded and decoded ({found.get('device', '')})"


def package_version(package: str) -> str:
    """The version of an installed package."""
    try:
        return version(package)
    except PackageNotFoundError:  # run from a folder without installing
        return "unknown"
