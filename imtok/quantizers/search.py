"""Nearest codes without ever holding a tokens x codes matrix."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from imtok.nn.threads import on_threads

SCORES = 2**20  # in a block on a processor: 4 MiB in float32, which stay in its cache
TOKENS, CODES = 512, 2**14  # at most in such a block
DEVICE_TOKENS, DEVICE_CODES = 4096, 4096  # an accelerator wants few large blocks: 64 MiB
GROUP = 64
WORTH_A_THREAD = 2**25  # products of numbers, some milliseconds
FEW = 16  # tokens for which a product has other kernels, which round in other ways


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

    Codes are streamed in blocks with a running best, so memory is linear in tokens plus codes. On a processor each
    thread takes whole blocks of tokens.
    """
    latents, table, offsets = latents.detach(), table.detach(), offsets.detach()  # no_grad does not reach other threads
    compiling = torch.compiler.is_compiling()
    if not compiling and not len(latents):
        return latents.new_zeros(0, dtype=torch.long)
    if compiling or latents.device.type != "cpu":  # nothing here may depend on the number of tokens of a program
        size = TOKENS if latents.device.type == "cpu" else DEVICE_TOKENS
        search = _searcher(latents[:size], table, offsets, DEVICE_CODES)
        return torch.cat([search(block) for block in latents.split(size)])
    rows = min(TOKENS, SCORES // min(CODES, len(table)))
    blocks = latents.tensor_split(-(-len(latents) // rows))  # as even as can be: no block has only a FEW tokens
    threads = _worth(len(latents), table)
    return torch.cat(on_threads(blocks, lambda: _searcher(blocks[0], table, offsets, CODES), threads))


def _worth(tokens: int, table: Float[Tensor, "v d"]) -> int:
    """How many threads a search is worth; a device other than the processor is told what to do by one."""
    return 1 + tokens * table.numel() // WORTH_A_THREAD if table.device.type == "cpu" else 1


def _searcher(largest: Tensor, table: Tensor, offsets: Tensor, width: int) -> Callable[[Tensor], Tensor]:
    """What finds the codes of one block of tokens after another.

    All blocks of scores use one piece of memory: new pages cost a processor more than the scores themselves. Under
    torch.compile, which plans memory itself, there is none.
    """
    parts = [
        (start, table[start : start + width], offsets[start : start + width]) for start in range(0, len(table), width)
    ]
    memory = None
    if not torch.compiler.is_compiling():
        size = len(largest) * len(parts[0][1])
        memory = torch.empty(size, dtype=torch.result_type(largest, table), device=largest.device)

    def search(block: Tensor) -> Tensor:
        best, ids = _greatest(_scores(block, *parts[0][1:], memory))
        for start, codes, offset in parts[1:]:
            score, index = _greatest(_scores(block, codes, offset, memory))
            better = score > best  # strictly: an earlier part keeps a tie
            best, ids = torch.where(better, score, best), torch.where(better, index + start, ids)
        return ids.masked_fill(best.isnan(), 0)

    return search


def _scores(
    block: Float[Tensor, "m d"], codes: Float[Tensor, "v d"], offsets: Float[Tensor, " v"], memory: Tensor | None
) -> Float[Tensor, "v m"]:
    """``codes block^T + offsets``; a processor writes rows that are as short as a block of tokens in half the time."""
    out = None if memory is None else memory[: len(codes) * len(block)]
    if block.device.type == "cpu" and not torch.compiler.is_compiling() and len(block) >= FEW:
        return torch.addmm(offsets[:, None], codes, block.T, out=None if out is None else out.view(len(codes), -1))
    scores = torch.addmm(offsets, block, codes.T, out=None if out is None else out.view(len(block), -1)).T
    return scores.contiguous() if block.device.type == "cpu" else scores


def _greatest(scores: Float[Tensor, "v m"]) -> tuple[Float[Tensor, " m"], Int64[Tensor, " m"]]:
    """``scores.max(0)``, faster: a maximum alone is found by vector instructions, a maximum with its place is not.

    So the place is sought among the maxima of groups, and then in one group. Codes that fill no group come last.
    """
    whole = len(scores) - len(scores) % GROUP
    if not whole:
        score, index = scores.max(dim=0)
        return score, index
    groups = scores[:whole].unflatten(0, (-1, GROUP))
    score, group = groups.amax(1).max(0)
    within = groups[group, :, torch.arange(scores.shape[1], device=scores.device)].argmax(-1)
    index = group * GROUP + within
    if whole == len(scores):
        return score, index
    last, place = scores[whole:].max(dim=0)
    better = last > score
    return torch.where(better, last, score), torch.where(better, place + whole, index)


@torch.no_grad()
def nearest_codes(ids: Int64[Tensor, "*shape"], table: Float[Tensor, "v d"], count: int) -> Int64[Tensor, "*shape k"]:
    """The ``count`` codes of ``table`` nearest to each code in ``ids``, nearest first, each id first itself.

    Raises:
        ValueError: If ``count`` is not between 1 and the number of codes.
    """
    if not 1 <= count <= table.shape[0]:
        raise ValueError(f"count of neighbours must be between 1 and the vocabulary {table.shape[0]}, got {count}")
    wanted, place = ids.unique(return_inverse=True)
    table = table.detach()
    half_norms = table.square().sum(-1) / 2

    def search(block: Tensor) -> Tensor:
        scores = torch.addmm(-half_norms, table[block], table.T)
        return scores.scatter_(1, block[:, None], torch.inf).topk(count, dim=-1).indices

    blocks = wanted.split(max(1, 2 * SCORES // len(table)))
    return torch.cat(on_threads(blocks, lambda: search, _worth(len(wanted), table)))[place]
