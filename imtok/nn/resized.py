"""Learned tables of positions and of tokens, for another number of them than they were learnt for."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from imtok.nn.positions import GridPositions
from imtok.nn.sampled_positions import SampledPositions

# What stands for the tokens of a sequence, a row for each: encoders' queries, and the positions of latents.
_ROWS = frozenset(
    (
        *("latents", "latent_positions", "queries", "query_positions", "registers", "register_positions"),
        *("holistic_positions", "missing_vectors", "times"),
    )
)


class Resized(NamedTuple):
    """A table for another number of tokens.

    Attributes:
        values: As long as the new net wants it.
        before: How long it was, in words.
        after: How long it is.
        how: By which rule.
    """

    values: Tensor
    before: str
    after: str
    how: str


def resized(name: str, net: nn.Module, source: nn.Module) -> Resized | None:
    """A table of ``source`` as ``net`` wants it; None if it is no table of positions or tokens, or of another width.

    Grids of positions are resized by bicubic interpolation. Of tokens in a row the first ones are kept where the new
    net has fewer, and where it has more they are stretched by linear interpolation. A module of ``net`` may have a
    method ``widened``, which makes its weights of those of a module that reads less: without noise, for example.

    Args:
        name: Of the weight.
        net: What it is for.
        source: What it is taken from.

    Example:
        >>> few, many = GridPositions((2, 2), width=8, factor=16), GridPositions((4, 4), width=8, factor=16)
        >>> new = resized("table", many, few)
        >>> new.values.shape, new.before, new.after, new.how
        (torch.Size([16, 8]), '2 x 2', '4 x 4', 'bicubic')
    """
    path, _, leaf = name.rpartition(".")
    try:
        mine, other = net.get_submodule(path), source.get_submodule(path)
        wanted, table = mine.get_parameter(leaf), other.get_parameter(leaf).detach()
    except AttributeError:
        return None
    widened: Any = getattr(mine, "widened", None)  # a module that knows the weights of one that reads less
    wide: Tensor | None = widened(leaf, table) if widened is not None else None
    if wide is not None and wide.shape == wanted.shape:
        return Resized(wide, str(list(table.shape)), str(list(wide.shape)), "zeros for what it did not read")
    if wanted.ndim != table.ndim or wanted.shape[-1] != table.shape[-1]:
        return None
    if isinstance(mine, GridPositions) and isinstance(other, GridPositions):
        grids = [f"{rows} x {columns}" for rows, columns in (other.grid, mine.grid)]
        planes = rearrange(table, "(h w) d -> 1 d h w", h=other.grid[0])
        return Resized(rearrange(_bicubic(planes, mine.grid), "1 d h w -> (h w) d"), grids[0], grids[1], "bicubic")
    if isinstance(mine, SampledPositions) and isinstance(other, SampledPositions):
        sides = [f"{len(one)} x {len(one)}" for one in (table, wanted)]
        planes = _bicubic(rearrange(table, "h w d -> 1 d h w"), (len(wanted), len(wanted)))
        return Resized(rearrange(planes, "1 d h w -> h w d"), sides[0], sides[1], "bicubic")
    if leaf not in _ROWS or wanted.shape[:-2] != table.shape[:-2]:
        return None
    # A net may hold a run of rows for each of its branches, and more rows behind that only training sees.
    branches, behind = getattr(mine, "branches", 1), getattr(mine, "redundant", 0)
    if (branches, behind) != (getattr(other, "branches", 1), getattr(other, "redundant", 0)):
        return None
    runs, split = branches if leaf == "latents" else 1, table.shape[-2] - behind
    rows, last = table[..., :split, :], table[..., split:, :]
    before, after = split // runs, (wanted.shape[-2] - behind) // runs
    parts = rearrange(rows, "... (k n) d -> ... k n d", k=runs)
    parts = parts[..., :after, :] if after <= before else _linear(parts, after)
    how = "the first ones" if after <= before else "linear"
    values = rearrange(parts, "... k n d -> ... (k n) d")
    return Resized(torch.cat([values, last], -2), str(before), str(after), how)


def _bicubic(planes: Tensor, grid: tuple[int, int]) -> Tensor:
    return F.interpolate(planes.float(), size=grid, mode="bicubic", align_corners=False).to(planes.dtype)


def _linear(rows: Tensor, count: int) -> Tensor:
    flat = rows.flatten(0, -3).mT
    longer = F.interpolate(flat.float(), size=count, mode="linear", align_corners=False).to(rows.dtype)
    return longer.mT.reshape(*rows.shape[:-2], count, rows.shape[-1])
