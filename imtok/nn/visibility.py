"""Who sees whom in a sequence of segments."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Bool
from torch import Tensor

Sight = Literal["full", "causal", "none"]


def visibility(lengths: Sequence[int], sights: Sequence[Sequence[Sight]]) -> Bool[Tensor, "n n"]:
    """The mask of a sequence that is made of segments: True where a row (query) may see a column (key).

    Args:
        lengths: Tokens in each segment, in their order.
        sights: A row per segment that looks, a column per segment that is seen. "full" = all of it, "none", "causal" =
            tokens up to the own index in the segment, the own one included.

    Raises:
        ValueError: If the table is not square over the segments or names another rule.

    Example:
        >>> visibility([2, 2], [["full", "none"], ["full", "causal"]]).int().tolist()
        [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    """
    if len(sights) != len(lengths) or any(len(row) != len(lengths) for row in sights):
        raise ValueError(f"sights must be a table of {len(lengths)} x {len(lengths)} segments, got {sights}")
    rows = []
    for queries, row in zip(lengths, sights, strict=True):
        blocks = []
        for keys, sight in zip(lengths, row, strict=True):
            if sight not in get_args(Sight):
                raise ValueError(f"a sight must be one of {', '.join(get_args(Sight))}, got {sight!r}")
            block = torch.full((queries, keys), sight != "none")
            blocks.append(block.tril() if sight == "causal" else block)
        rows.append(torch.cat(blocks, 1))
    return torch.cat(rows)


def causal_groups(sizes: Sequence[int]) -> Bool[Tensor, "n n"]:
    """The mask of groups in a row, each of which sees itself whole and all groups before it.

    Args:
        sizes: Tokens in each group.

    Example:
        >>> causal_groups([1, 2]).int().tolist()
        [[1, 0, 0], [1, 1, 1], [1, 1, 1]]
    """
    group = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    return group[:, None] >= group


def hide_keys(
    visible: Bool[Tensor, "n m"] | None, present: Bool[Tensor, "b m"]
) -> Bool[Tensor, "b n m"] | Bool[Tensor, "b #n m"]:
    """Take tokens that are not present out of everybody's sight. Their own rows stay, and mean nothing.

    Args:
        visible: What may be seen apart from that; None = everything.
        present: True = can be seen. Each row of the result must keep one True, or attention has nothing to average.
    """
    keys = present[:, None, :]
    return keys if visible is None else keys & visible.to(present.device)
