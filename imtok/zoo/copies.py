"""Rules for weights that a file has once and a tokenizer of imtok twice."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from imtok.zoo.rules import Names, Rename, Rule


@dataclass(frozen=True)
class Twice(Rule):
    """Keys that go to two places.

    Args:
        first: To the one place.
        second: From the same keys to the other.

    Example:
        >>> rule = Twice(Rename("net", "space.net"), Rename("net", "decoder.net"))
        >>> list(rule.match(["net.weight"]))
        [(('net.weight',), ('space.net.weight', 'decoder.net.weight'))]
    """

    first: Rename
    second: Rename

    @override
    def match(self, keys: Iterable[str]) -> Iterator[tuple[Names, Names]]:
        held = list(keys)
        for (sources, one), (_, other) in zip(self.first.match(held), self.second.match(held), strict=True):
            yield sources, one + other

    @override
    def apply(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        return [tensors[0], tensors[0].clone()]

    @override
    def inverse(self) -> Rule:
        return Once(self.first, self.second)


@dataclass(frozen=True)
class Once(Rule):
    """The way back of :class:`Twice`: both places must hold the same.

    Args:
        first: To the one place.
        second: From the same keys to the other.
    """

    first: Rename
    second: Rename

    @override
    def match(self, keys: Iterable[str]) -> Iterator[tuple[Names, Names]]:
        held = list(keys)
        ours = self.first.inverse().match(held), self.second.inverse().match(held)
        for (one, sources), (other, _) in zip(*ours, strict=False):
            yield one + other, sources

    @override
    def apply(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        shape_alone = any(tensor.is_meta for tensor in tensors)
        if not shape_alone and not torch.equal(tensors[0], tensors[1]):
            raise ValueError("both places must hold the same")
        return [tensors[0]]

    @override
    def inverse(self) -> Rule:
        return Twice(self.first, self.second)


def twice(first: Sequence[Rule], second: Sequence[Rule]) -> list[Rule]:
    """Rules of one net for two places, from those for each; ValueError if they are not renamings of the same keys."""
    pairs: list[Rule] = []
    for one, other in zip(first, second, strict=True):
        if not (isinstance(one, Rename) and isinstance(other, Rename) and one.source == other.source):
            raise ValueError(f"rules must rename the same keys, got {one} and {other}")
        pairs.append(Twice(one, other))
    return pairs
