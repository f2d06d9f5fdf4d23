"""Nearest codes without ever holding a tokens x codes matrix."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

TOKENS = 512  # a block of scores is TOKENS x CODES floats, 8 MiB in float32: it stays in the processor's cache
CODES = 4096
DEVICE_TOKENS = 4096  # an accelerator wants few large blocks: 64 MiB
GROUP = 64


def nearest(latents: Float[Tensor, "m d"], table: Float[Tensor, "v d"]) -> Int64[Tensor, " m"]:
    """Index of the code with the least Euclidean distance; the lowest index where codes tie.

    ``|z - e|^2`` is least where ``z . e - |e|^2 / 2`` is greatest.
    """
    return most_similar(latents, table, -table.detach().square().sum(-1) / 2)


@torch.no_grad()
def most_similar(
    latents: Float[Tensor, "m d"], table: Float[Tensor, "v d"], offsets: Float[Tensor, " v"]
) -> Int64[Tensor, " m"]:
    """Index of the code with the greatest ``z . e + offset``; the lowest index where codes tie, 0 for NaN.

    Codes are streamed in blocks with a running best, so memory is linear in tokens plus codes.
    """
    rows = TOKENS if latents.device.type == "cpu" else DEVICE_TOKENS
    memory = _scratch(latents, table, rows)
    found = []
    for block in latents.split(rows):
        best, ids = block.new_full(block.shape[:1], -torch.inf), block.new_zeros(block.shape[:1], dtype=torch.long)
        for start in range(0, table.shape[0], CODES):
            codes = table[start : start + CODES]
            out = None if memory is None else memory[: len(block) * len(codes)].view(len(block), len(codes))
            scores = torch.addmm(offsets[start : start + CODES], block, codes.T, out=out)
            score, index = _row_max(scores)
            better = score > best  # strictly: an earlier block keeps a tie
            best, ids = torch.where(better, score, best), torch.where(better, index + start, ids)
        found.append(ids)
    return torch.cat(found) if found else latents.new_zeros(0, dtype=torch.long)


def _scratch(latents: Float[Tensor, "m d"], table: Float[Tensor, "v d"], rows: int) -> Tensor | None:
    """One piece of memory for all blocks of scores: new pages cost a processor more than the scores themselves.

    None where torch.compile plans the memory itself.
    """
    if torch.compiler.is_compiling():
        return None
    size = min(rows, len(latents)) * min(CODES, len(table))
    return torch.empty(size, dtype=torch.result_type(latents, table), device=latents.device)


def _row_max(scores: Float[Tensor, "m v"]) -> tuple[Float[Tensor, " m"], Int64[Tensor, " m"]]:
    """``scores.max(-1)``, faster: a maximum alone is found by vector instructions, a maximum with its place is not.

    So the place is sought among the maxima of groups, and then in one group.
    """
    tokens, codes = scores.shape
    if codes <= GROUP or codes % GROUP:
        score, index = scores.max(dim=-1)
        return score, index
    groups = scores.view(tokens, codes // GROUP, GROUP)
    score, group = groups.amax(-1).max(-1)
    within = groups[torch.arange(tokens, device=scores.device), group].argmax(-1)
    return score, group * GROUP + within


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
