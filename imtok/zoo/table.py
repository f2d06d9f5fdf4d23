"""Tables: every source key is mapped or dropped by name, every target key is filled once; anything else is an error."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from einops import EinopsError
from torch import Tensor

from imtok.zoo.copies import Twice
from imtok.zoo.layouts import Split
from imtok.zoo.rules import Drop, Leave, Names, Rule

_MOST = 40  # keys of one kind that an error lists


class TableError(ValueError):
    """Tensors that do not fit a table; the message lists the keys."""


@dataclass(frozen=True)
class Conversion:
    """What a table made of a source's tensors.

    Attributes:
        tensors: By target key.
        mapped: Source keys that went into them, with the target keys.
        dropped: Source keys that have no place, with the reason.
    """

    tensors: dict[str, Tensor]
    mapped: dict[str, Names]
    dropped: dict[str, str]


class Table:
    """Rules that together say what becomes of every key of a source.

    Args:
        rules: In any order; no key may be taken by two of them.

    Example:
        >>> from imtok.zoo.rules import Drop, Rename
        >>> table = Table([Rename("conv", "encoder.conv"), Drop("loss.*", "loss")])
        >>> tensors = {"conv.weight": torch.zeros(2), "loss.weight": torch.zeros(1)}
        >>> table.convert(tensors, {"encoder.conv.weight": torch.Size([2])}).mapped
        {'conv.weight': ('encoder.conv.weight',)}
    """

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.rules = tuple(rules)

    def inverse(self) -> "Table":
        """The table of the way back: from imtok's keys to those of the source."""
        return Table([rule.inverse() for rule in self.rules])

    def convert(self, tensors: Mapping[str, Tensor], shapes: Mapping[str, torch.Size] | None = None) -> Conversion:
        """Apply all rules.

        Args:
            tensors: By source key.
            shapes: Of every target key; None = whatever comes out.

        Raises:
            TableError: If a source key is neither mapped nor dropped, a target key is not filled, a key is taken or
                filled twice, or a shape differs; lists all of them.
        """
        made: dict[str, Tensor] = {}
        taken, filled = Counter[str](), Counter[str]()
        mapped: dict[str, Names] = {}
        dropped: dict[str, str] = {}
        problems: list[str] = []
        for rule in self.rules:
            for sources, targets in rule.match(tensors):
                taken.update(sources)
                filled.update(targets)
                if isinstance(rule, Drop):
                    dropped.update(dict.fromkeys(sources, rule.reason))
                else:
                    mapped.update(dict.fromkeys(sources, targets))
                try:
                    results = rule.apply([tensors[source] for source in sources])
                except (ValueError, EinopsError) as error:
                    reason = str(error).strip().splitlines()[-1].strip()
                    problems.append(f"{', '.join(sources)} cannot become {', '.join(targets)} ({reason})")
                    continue
                made.update(zip(targets, results, strict=True))
        twice = [key for key, count in (taken | filled).items() if count > 1]
        unknown = [key for key in tensors if key not in taken]
        problems += _listed("taken or filled twice", twice) + _listed("unknown", unknown)
        if shapes is not None:
            problems += self._compare(made, set(filled), shapes)
        if problems:
            raise TableError("; ".join(problems))
        return Conversion(made, mapped, dropped)

    def _compare(self, made: Mapping[str, Tensor], filled: set[str], shapes: Mapping[str, torch.Size]) -> list[str]:
        """What is wrong with the tensors that were made, in words that name the keys of the source."""
        stay = [rule for rule in self.rules if isinstance(rule, Leave)]
        empty = [key for key in shapes if key not in filled and not any(rule.stays(key) for rule in stay)]
        superfluous = [f"{self.source_of(key)} (would be {key})" for key in made if key not in shapes]
        other = [
            f"{self.source_of(key)} must have shape {list(shape)}, got {list(made[key].shape)}"
            for key, shape in shapes.items()
            if key in made and made[key].shape != shape
        ]
        return [
            *_listed("missing", [self.source_of(key) for key in empty]),
            *_listed("without a place", superfluous),
            *_listed("of another shape", other),
        ]

    def source_of(self, target: str) -> str:
        """The source keys that a target key is made of; itself where the table does not know it."""
        for rule in self.rules:
            if isinstance(rule, Split) and target in rule.targets:
                return rule.source
            if isinstance(rule, Twice):
                rule = rule.first if any(True for _ in rule.first.inverse().match([target])) else rule.second
            for _, sources in rule.inverse().match([target]):
                return " + ".join(sources)
        return target


def _listed(what: str, keys: Sequence[str]) -> list[str]:
    if not keys:
        return []
    more = f", and {len(keys) - _MOST} more" if len(keys) > _MOST else ""
    return [f"{len(keys)} {what}: {', '.join(keys[:_MOST])}{more}"]
