"""Merges the statistics of a quantizer over micro-batches, passes and ranks."""

import torch
from torch import Tensor

from imtok.distributed import max_over_ranks, sum_over_ranks, world_size

DRAWN = "drawn"  # last part of the name of statistics that are drawn tokens, see imtok.quantizers.restart
KEYS = 2  # columns of such statistics that hold the key


def merge_stats(total: dict[str, Tensor], stats: dict[str, Tensor], prefix: str = "") -> None:
    """Add statistics to ``total``: sums are added, and of two drawn tokens the one with the greater key stays.

    Args:
        total: The statistics so far; changed in place.
        stats: The statistics to add.
        prefix: What the names in ``total`` begin with.
    """
    for name, value in stats.items():
        key = prefix + name
        if key not in total:
            total[key] = value
        elif _is_drawn(name):
            before = total[key]
            first, second = value[:, 0] - before[:, 0], value[:, 1] - before[:, 1]
            greater = (first > 0) | ((first == 0) & (second > 0))
            total[key] = torch.where(greater[:, None], value, before)
        else:
            total[key] = total[key] + value


def stats_of_all_ranks(stats: dict[str, Tensor]) -> dict[str, Tensor]:
    """The statistics of one big batch, the same on every rank: sums, and the drawn tokens with the greatest keys."""
    return {name: _drawn(value) if _is_drawn(name) else sum_over_ranks(value) for name, value in stats.items()}


def _is_drawn(name: str) -> bool:
    return name.rpartition(".")[2] == DRAWN


def _drawn(rows: Tensor) -> Tensor:
    """Of each place the row with the greatest key: equal keys are equal tokens, so any of these will do."""
    if world_size() == 1:
        return rows
    ours = torch.ones_like(rows[:, 0], dtype=torch.bool)
    for column in rows[:, :KEYS].unbind(1):
        mine = column.masked_fill(~ours, -torch.inf)
        ours = ours & (mine == max_over_ranks(mine))
    return max_over_ranks(rows.masked_fill(~ours[:, None], -torch.inf))
