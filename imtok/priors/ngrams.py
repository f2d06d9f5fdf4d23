"""What counting alone knows of tokens: uniform, unigram and 2-gram models, beside which a prior's bits are read."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float64, Int64

from imtok.types import Tokens

_STRENGTHS = 2.0 ** np.arange(-4, 13)  # of the unigram in the smoothed 2-gram; the best one is taken


def ngram_bits(train: Sequence[Tokens], held_out: Sequence[Tokens], vocab_sizes: Sequence[int]) -> Mapping[str, float]:
    """Bits per token of three models that are fitted on some tokens, over others.

    The slots of a token are summed, each given by itself. ``unigram`` has one pseudo-count for each id. ``bigram`` is
    given the id of the same slot of the token before, in raster order: ``(n(a, b) + s * unigram(b)) / (n(a) + s)``, and
    the unigram at the first token. Its ``s`` is the best one on the held-out tokens, so it is what a smoothed 2-gram
    model can reach at most.

    Args:
        train: Batches of tokens to count.
        held_out: Batches of tokens to measure.
        vocab_sizes: Number of ids of each slot.

    Example:
        >>> import torch
        >>> same = [Tokens(torch.zeros(4, 8, 1, dtype=torch.int64))]
        >>> {name: round(bits, 2) for name, bits in ngram_bits(same, same, [4]).items()}
        {'uniform': 2.0, 'unigram': 0.13, 'bigram': 0.02}
    """
    found = {"uniform": 0.0, "unigram": 0.0, "bigram": 0.0}
    for slot, size in enumerate(vocab_sizes):
        unigram = np.ones(size)
        for ids, there in _slots(train, slot):
            unigram += np.bincount(ids[there], minlength=size)
        unigram /= unigram.sum()
        pairs, counts = _pairs(train, slot, size)
        before = np.zeros(size)
        np.add.at(before, pairs // size, counts)
        singles, firsts, seconds, number = _costs(held_out, slot, unigram)
        seen = _look_up(pairs, counts, firsts * size + seconds)
        best = min(_bigram(seen, before[firsts], unigram[seconds], strength) for strength in _STRENGTHS)
        found["uniform"] += float(np.log2(size))
        found["unigram"] += (singles.sum() - np.log2(unigram[seconds]).sum()) / number
        found["bigram"] += (singles.sum() + best) / number
    return {name: float(bits) for name, bits in found.items()}


def _slots(batches: Sequence[Tokens], slot: int) -> Iterator[tuple[Int64[np.ndarray, "b t"], np.ndarray]]:
    """Ids of one slot, and which of them there are."""
    for tokens in batches:
        ids = tokens.ids[..., slot].numpy()
        keep = tokens.keep
        yield ids, np.ones(ids.shape, np.bool_) if keep is None or keep.shape != ids.shape else keep.numpy()


def _pairs(batches: Sequence[Tokens], slot: int, size: int) -> tuple[Int64[np.ndarray, " n"], np.ndarray]:
    """Pairs of neighbours as one number each, in ascending order, and how often each is there."""
    codes = [
        ids[:, :-1][two] * size + ids[:, 1:][two] for ids, there in _slots(batches, slot) for two in [there[:, 1:]]
    ]
    return np.unique(np.concatenate(codes), return_counts=True)


def _costs(
    batches: Sequence[Tokens], slot: int, unigram: Float64[np.ndarray, " v"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Bits of the first tokens, the ids of all pairs of neighbours, and how many tokens there are."""
    singles, firsts, seconds, number = list[np.ndarray](), list[np.ndarray](), list[np.ndarray](), 0
    for ids, there in _slots(batches, slot):
        two = there[:, 1:]
        singles.append(-np.log2(unigram[ids[:, 0]]))
        firsts.append(ids[:, :-1][two])
        seconds.append(ids[:, 1:][two])
        number += int(there.sum())
    return np.concatenate(singles), np.concatenate(firsts), np.concatenate(seconds), number


def _look_up(pairs: np.ndarray, counts: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    if not len(pairs):
        return np.zeros(len(wanted))
    at = np.searchsorted(pairs, wanted).clip(max=len(pairs) - 1)
    return np.where(pairs[at] == wanted, counts[at], 0)


def _bigram(seen: np.ndarray, before: np.ndarray, unigram: np.ndarray, strength: float) -> float:
    """Bits of all pairs."""
    return float(-np.log2((seen + strength * unigram) / (before + strength)).sum())
