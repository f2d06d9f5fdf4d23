"""Rules for tensors that another code cuts or lays out in another way."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isqrt

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from typing_extensions import override

from imtok.zoo.rules import Names, Rule

_OFFSET = 0.1  # by which the code of DINO stretches positions that it resizes


@dataclass(frozen=True)
class Rearrange(Rule):
    """One key with its axes in another order, or with others: a view, a squeeze or a permutation.

    Args:
        source: The key.
        target: Its new name.
        before: Its axes, as einops writes them.
        after: The axes of the target.
        sizes: Of axes that cannot be read off the shape.

    Example:
        >>> rule = Rearrange("conv.weight", "linear.weight", "o i 1 1", "o i")
        >>> rule.apply([torch.zeros(4, 3, 1, 1)])[0].shape, rule.inverse().apply([torch.zeros(4, 3)])[0].shape
        (torch.Size([4, 3]), torch.Size([4, 3, 1, 1]))
    """

    source: str
    target: str
    before: str
    after: str
    sizes: Mapping[str, int] = field(default_factory=dict)

    @override
    def match(self, keys: Iterable[str]) -> Iterator[tuple[Names, Names]]:
        if self.source in keys:
            yield (self.source,), (self.target,)

    @override
    def apply(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        return [rearrange(tensors[0], f"{self.before} -> {self.after}", **self.sizes)]

    @override
    def inverse(self) -> Rule:
        return Rearrange(self.target, self.source, self.after, self.before, self.sizes)


@dataclass(frozen=True)
class Reorder(Rule):
    """One key, cut into equal parts along its first axis, which come in another order.

    Args:
        source: The key.
        target: Its new name.
        order: Which part of the source stands at each place of the target.

    Example:
        >>> Reorder("a", "b", (1, 2, 0)).apply([torch.arange(6)])[0].tolist()
        [2, 3, 4, 5, 0, 1]
    """

    source: str
    target: str
    order: tuple[int, ...]

    @override
    def match(self, keys: Iterable[str]) -> Iterator[tuple[Names, Names]]:
        if self.source in keys:
            yield (self.source,), (self.target,)

    @override
    def apply(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        parts = cut(tensors[0], len(self.order))
        return [torch.cat([parts[place] for place in self.order])]

    @override
    def inverse(self) -> Rule:
        places = tuple(self.order.index(place) for place in range(len(self.order)))
        return Reorder(self.target, self.source, places)


@dataclass(frozen=True)
class Join(Rule):
    """Several keys, one after the other along an axis of one key.

    Args:
        sources: The keys.
        target: The key that holds all.
        lengths: Along that axis; None = all of one length.
        before: Axes of what they are together, as einops writes them; "" = they stay as they are.
        after: Axes of the target.
        axis: Along which they are joined.
        sizes: Of axes that cannot be read off the shape.

    Example:
        >>> Join(("a", "b"), "c").apply([torch.zeros(2), torch.ones(2)])[0].tolist()
        [0.0, 0.0, 1.0, 1.0]
    """

    sources: Names
    target: str
    lengths: tuple[int, ...] | None = None
    before: str = ""
    after: str = ""
    axis: int = 0
    sizes: Mapping[str, int] = field(default_factory=dict)

    @override
    def match(self, keys: Iterable[str]) -> Iterator[tuple[Names, Names]]:
        if all(source in keys for source in self.sources):
            yield self.sources, (self.target,)

    @override
    def apply(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        lengths = tuple(tensor.shape[self.axis] for tensor in tensors)
        others = [[*tensor.shape[: self.axis], *tensor.shape[self.axis + 1 :]] for tensor in tensors]
        if any(other != others[0] for other in others):
            raise ValueError(f"parts must have one shape apart from the axis that is joined, got {others}")
        if (self.lengths is None and len(set(lengths)) > 1) or self.lengths not in (None, lengths):
            raise ValueError(f"parts must have {self.lengths or 'one length'}, got lengths {lengths}")
        joined = torch.cat(list(tensors), self.axis)
        return [rearrange(joined, f"{self.before} -> {self.after}", **self.sizes) if self.before else joined]

    @override
    def inverse(self) -> Rule:
        return Split(self.target, self.sources, self.lengths, self.after, self.before, self.axis, self.sizes)


@dataclass(frozen=True)
class Split(Rule):
    """One key, cut into parts along an axis.

    Args:
        source: The key.
        targets: A key for each part.
        lengths: Of the parts; None = equal ones along the first axis.
        before: Axes of the source, as einops writes them; "" = they stay as they are.
        after: Axes of what is cut.
        axis: Along which it is cut.
        sizes: Of axes that cannot be read off the shape.
    """

    source: str
    targets: Names
    lengths: tuple[int, ...] | None = None
    before: str = ""
    after: str = ""
    axis: int = 0
    sizes: Mapping[str, int] = field(default_factory=dict)

    @override
    def match(self, keys: Iterable[str]) -> Iterator[tuple[Names, Names]]:
        if self.source in keys:
            yield (self.source,), self.targets

    @override
    def apply(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        layout = f"{self.before} -> {self.after}"
        whole = rearrange(tensors[0], layout, **self.sizes) if self.before else tensors[0]
        if self.lengths is None:
            return cut(whole, len(self.targets))
        if sum(self.lengths) != whole.shape[self.axis]:
            raise ValueError(f"axis {self.axis} must be {sum(self.lengths)}, got {whole.shape[self.axis]}")
        return whole.split(self.lengths, self.axis)

    @override
    def inverse(self) -> Rule:
        return Join(self.targets, self.source, self.lengths, self.after, self.before, self.axis, self.sizes)


@dataclass(frozen=True)
class Placed(Split):
    """Positions of a class token, then of a square grid, which become those of another grid as in the code of DINO.

    Args:
        source: The key.
        targets: The key of the class token's position, and that of the grid's.
        lengths: 1, and the number of positions of the grid that is wanted.
        before: As for ``Split``.
        after: As for ``Split``.

    Example:
        >>> [part.shape[0] for part in Placed("a", ("b", "c"), (1, 9)).apply([torch.zeros(1 + 4, 8)])]
        [1, 9]
    """

    @override
    def apply(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        whole = rearrange(tensors[0], f"{self.before} -> {self.after}") if self.before else tensors[0]
        places = self.lengths[1] if self.lengths else len(whole) - 1
        return whole[:1], _resized(whole[1:], places)


def _resized(table: Tensor, places: int) -> Tensor:
    """A table of so many positions, in single precision; unchanged where it has as many, or one of them is no grid."""
    trained, side = isqrt(len(table)), isqrt(places)
    if trained == side or trained**2 != len(table) or side**2 != places:
        return table
    maps = rearrange(table.float(), "(h w) d -> 1 d h w", h=trained)
    maps = F.interpolate(maps, scale_factor=((side + _OFFSET) / trained,) * 2, mode="bicubic")
    return rearrange(maps, "1 d h w -> (h w) d")


def cut(tensor: Tensor, parts: int) -> tuple[Tensor, ...]:
    """Equal parts along the first axis; ValueError if it has no such parts."""
    if len(tensor) % parts:
        raise ValueError(f"the first axis must be a multiple of {parts}, got {len(tensor)}")
    return tensor.split(len(tensor) // parts)
