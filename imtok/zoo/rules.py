"""The rules of which tables are made: each says what becomes of some keys, and knows the way back."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor
from typing_extensions import override

Names = tuple[str, ...]


class Rule(ABC):
    """What becomes of some keys."""

    @abstractmethod
    def match(self, keys: Iterable[str]) -> Iterator[tuple[Names, Names]]:
        """The groups of source keys that it takes from ``keys``, each with the target keys that it makes of them."""

    @abstractmethod
    def apply(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """The target tensors of one group."""

    @abstractmethod
    def inverse(self) -> "Rule":
        """The rule of the way back."""


@dataclass(frozen=True)
class Rename(Rule):
    """A key, or all keys of a module, by another name.

    Args:
        source: A key, or the name of a module: what comes before a dot.
        target: What stands in its place.

    Example:
        >>> list(Rename("a.q", "b.query").match(["a.q.weight", "a.k.weight"]))
        [(('a.q.weight',), ('b.query.weight',))]
    """

    source: str
    target: str

    @override
    def match(self, keys: Iterable[str]) -> Iterator[tuple[Names, Names]]:
        for key in keys:
            if key == self.source or key.startswith(f"{self.source}."):
                yield (key,), (self.target + key[len(self.source) :],)

    @override
    def apply(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        return tensors

    @override
    def inverse(self) -> Rule:
        return Rename(self.target, self.source)


@dataclass(frozen=True)
class Drop(Rule):
    """Source keys that have no place in imtok.

    Args:
        pattern: Which keys, with ``*`` for anything.
        reason: What they are, for the report.
    """

    pattern: str
    reason: str

    @override
    def match(self, keys: Iterable[str]) -> Iterator[tuple[Names, Names]]:
        for key in keys:
            if fnmatchcase(key, self.pattern):
                yield (key,), ()

    @override
    def apply(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        return ()

    @override
    def inverse(self) -> Rule:
        return Leave(self.pattern, self.reason)


@dataclass(frozen=True)
class Leave(Rule):
    """Target keys that the source does not have, and that stay as they were built.

    Args:
        pattern: Which keys, with ``*`` for anything.
        reason: What they are.
    """

    pattern: str
    reason: str

    @override
    def match(self, keys: Iterable[str]) -> Iterator[tuple[Names, Names]]:
        return iter(())

    @override
    def apply(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        return ()

    @override
    def inverse(self) -> Rule:
        return Drop(self.pattern, self.reason)

    def stays(self, key: str) -> bool:
        """Whether a target key may stay as it was built."""
        return fnmatchcase(key, self.pattern)
