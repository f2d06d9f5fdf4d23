"""What numbers are called and what they mean: as a report says it, or as the classes of imtok do."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from imtok.measures.named import known
from imtok.measures.quantity import announced


class Term(NamedTuple):
    """A number in words.

    Attributes:
        title: What it is called.
        unit: What it is counted in; empty = a number without a unit.
        meaning: A definition in a sentence or two.
    """

    title: str
    unit: str
    meaning: str

    @property
    def heading(self) -> str:
        """Title and unit, where that takes no column of its own."""
        return f"{self.title} ({self.unit})" if self.unit else self.title


def term(name: str, told: Mapping[str, Any] | None = None) -> Term:
    """What a number means; names of nets and resizers stay in the names of distances, which depend on them.

    Args:
        name: Of the number.
        told: What a report says of its numbers (``terms``), so that a class that is not here is not needed. Reports of
            before do not say it.

    Example:
        >>> term("psnr").heading, term("fd_efflite0_224").title, term("mine", {"mine": {"title": "Mine"}}).title
        ('PSNR (dB)', 'fd_efflite0_224', 'Mine')
    """
    found = (told or {}).get(name)
    if isinstance(found, Mapping):
        title, unit, meaning = (str(found.get(key, "")) for key in ("title", "unit", "meaning"))
        return Term(title or name, unit, meaning)
    quantity = announced(name, known())
    return Term(quantity.title or name, quantity.unit, quantity.meaning)
