"""What a number is called, what it counts and which way is better: said once, on the class that gives it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Quantity:
    """A number that a measure gives.

    Attributes:
        name: In ``report.json``; ``{net}`` in it stands for the extractor that the number depends on.
        title: For people; empty = its name.
        unit: What it is counted in; empty = a number without a unit.
        convention: How it is computed, in words: compare only numbers of one convention.
        higher_is_better: Whether a larger value is the better one; None = neither is, or the class leaves it open.
        meaning: A definition in a sentence or two.
        asks: The config key that says which way is better, where the class leaves it open; empty = there is none.
    """

    name: str
    title: str = ""
    unit: str = ""
    convention: str = ""
    higher_is_better: bool | None = None
    meaning: str = ""
    asks: str = ""

    def named(self, name: str) -> "Quantity":
        """The same with the name of its net in it."""
        return replace(self, name=name)

    @property
    def words(self) -> dict[str, str]:
        """What a report keeps beside the value, so that it can be read without the class."""
        return {"title": self.title or self.name, "unit": self.unit, "meaning": self.meaning}


def declared(part: Any) -> tuple[Quantity, ...]:
    """The numbers that a class, or an object of it, says it gives: its ``quantities``, or the one of its own name.

    Example:
        >>> class Blur:
        ...     name, title, unit, higher_is_better = "blur", "Blur", "pixels", False
        >>> [(one.name, one.unit, one.higher_is_better) for one in declared(Blur)]
        [('blur', 'pixels', False)]
    """
    several = getattr(part, "quantities", ())
    if several or not getattr(part, "name", ""):
        return tuple(several)
    words = {key: getattr(part, key, "") or "" for key in ("title", "unit", "convention", "meaning")}
    return (Quantity(part.name, higher_is_better=getattr(part, "higher_is_better", None), **words),)


def announced(name: str, quantities: Mapping[str, Quantity]) -> Quantity:
    """What is said of a number: under its own name, or under the longest name with ``{net}`` in it that it starts with.

    A number of which nothing is said has a name and nothing else.

    Example:
        >>> told = {one.name: one for one in (Quantity("kid_{net}", unit="a"), Quantity("kid_std_{net}", unit="b"))}
        >>> [(one.name, one.unit) for one in (announced("kid_std_mine", told), announced("psnr", told))]
        [('kid_std_mine', 'b'), ('psnr', '')]
    """
    if name in quantities:
        return quantities[name]
    starts = {key.partition("{")[0]: one for key, one in quantities.items() if "{" in key}
    family = max((start for start in starts if name.startswith(start)), key=len, default=None)
    return Quantity(name) if family is None else starts[family].named(name)


def of_channels(convention: str, channels: int) -> str:
    """What a number is computed of, in words, for images of other channels than RGB.

    Example:
        >>> of_channels("mean over images of the PSNR of uint8 RGB pixels (rounded)", 1)
        'mean over images of the PSNR of grey pixels of 65,536 levels (rounded)'
    """
    if channels == 3 or "LPIPS" in convention:  # whose net sees RGB in any case
        return convention
    pixels = "grey pixels of 65,536 levels" if channels == 1 else "uint8 RGB and alpha"
    return convention.replace("uint8 RGB pixels", pixels)
