"""Nearest codes without ever holding a tokens x codes matrix."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

TOKENS = 512  # a block of scores is TOKENS x CODES floats, 4 MiB in float32: it stays in the processor's cache
CODES = 2048


@torch.no_grad()
def nearest(latents: Float[Tensor, "m d"], table: Float[Tensor, "v d"]) -> Int64[Tensor, " m"]:
    """Index of the code with the least Euclidean distance; the lowest index where codes tie.

    ``|z - e|^2`` is least where ``z . e - |e|^2 / 2`` is greatest. Codes are streamed in blocks with a running best,
    so memory is linear in tokens plus codes.
    """
    half_norms = table.square().sum(-1) / 2
    ids = torch.zeros(latents.shape[0], dtype=torch.long, device=latents.device)
    for first in range(0, latents.shape[0], TOKENS):
        block = latents[first : first + TOKENS]
        best = block.new_full(block.shape[:1], -torch.inf)
        for start in range(0, table.shape[0], CODES):
            scores = torch.addmm(-half_norms[start : start + CODES], block, table[start : start + CODES].T)
            score, index = scores.max(dim=-1)
            better = score > best  # strictly: an earlier block keeps a tie
            best = torch.where(better, score, best)
            ids[first : first + TOKENS] = torch.where(better, index + start, ids[first : first + TOKENS])
    return ids


@torch.no_grad()
def nearest_codes(ids: Int64[Tensor, "*shape"], table: Float[Tensor, "v d"], count: int) -> Int64[Tensor, "*shape k"]:
    """The ``count`` codes of ``table`` nearest to each code in ``ids``, nearest first, each id first itself.

    Raises:
        ValueError: If ``count`` is not between 1 and the number of codes.
    """
    if not 1 <= count <= table.shape[0]:
        raise ValueError(f"count of neighbours must be between 1 and the vocabulary {table.shape[0]}, got {count}")
    wanted, place = ids.unique(return_inverse=True)
    half_norms = table.square().sum(-1) / 2
    rows = max(1, TOKENS * CODES // table.shape[0])
    found = []
    for block in wanted.split(rows):
        scores = torch.addmm(-half_norms, table[block], table.T)
        scores.scatter_(1, block[:, None], torch.inf)
        found.append(scores.topk(count, dim=-1).indices)
    return torch.cat(found)[place] if found else ids.new_zeros(*ids.shape, count)
