"""Tokens as a language: what "Analyzing The Language of Visual Tokens" (arXiv 2411.05001) measures.

Its code is not public: the formulas below are the textbook ones that its text names.
"""

import heapq
import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

_GRAMS = 3
_SHIFTS = 16


class Zipf(NamedTuple):
    """A fit of ``f(rank) ~ (rank + shift)^-exponent`` and how straight the plain log-log plot is."""

    exponent: float
    shift: float
    r_squared: float


def fit_zipf(counts: Int[np.ndarray, " v"]) -> Zipf:
    """The Zipf-Mandelbrot law of greatest likelihood, over the codes that were seen.

    Args:
        counts: How often each code was seen, in any order.

    Example:
        >>> fit = fit_zipf((1e6 / np.arange(1, 200)).astype(np.int64))
        >>> round(fit.exponent, 2), round(fit.r_squared, 2)
        (1.0, 1.0)
    """
    seen = np.sort(counts[counts > 0])[::-1].astype(np.float64)
    if len(seen) < 3:
        return Zipf(0.0, 0.0, 0.0)
    ranks = np.arange(1, len(seen) + 1)
    shifts, best = np.concatenate([[0.0], np.geomspace(0.01, 10.0 * len(seen), _SHIFTS)]), (0.0, 0.0, math.inf)
    for _ in range(2):  # a coarse grid of shifts, then a finer one around the best
        fits = [(shift, *_fit_exponent(seen, np.log(ranks + shift))) for shift in shifts]
        at = min(range(len(fits)), key=lambda index: fits[index][2])
        best = min(best, (fits[at][1], fits[at][0], fits[at][2]), key=lambda fit: fit[2])
        shifts = np.linspace(shifts[max(at - 1, 0)], shifts[min(at + 1, len(shifts) - 1)], _SHIFTS)
    x, y = np.log(ranks), np.log(seen)
    line = np.polyval(np.polyfit(x, y, 1), x)
    spread = float(np.var(y))
    return Zipf(best[0], float(best[1]), 1 - float(np.var(y - line)) / spread if spread > 0 else 0.0)


def _log_slope(counts: np.ndarray) -> float:
    """Slope of counts by rank on logarithmic axes: a fit with a shift takes too long for millions of grams."""
    seen = np.sort(counts)[::-1]
    return float(np.polyfit(np.log(np.arange(1, len(seen) + 1)), np.log(seen), 1)[0]) if len(seen) > 1 else 0.0


def _fit_exponent(seen: np.ndarray, logs: np.ndarray) -> tuple[float, float]:
    """The exponent of greatest likelihood and its surprise in nats; convex, so Newton's method finds it."""
    share, exponent = seen / seen.sum(), 1.0
    observed = float(share @ logs)
    for _ in range(30):
        weights = np.exp(-exponent * (logs - logs.min()))
        weights /= weights.sum()
        mean = float(weights @ logs)
        spread = float(weights @ (logs - mean) ** 2)
        step = (mean - observed) / spread if spread > 0 else 0.0
        exponent = min(max(exponent + step, 0.0), exponent + 2.0)
        if abs(step) < 1e-9:
            break
    total = float(np.log(np.exp(-exponent * (logs - logs.min())).sum())) - exponent * float(logs.min())
    return exponent, exponent * observed + total


def heaps_growth(first_seen: Int[np.ndarray, " v"], images: int, tokens_per_image: int) -> dict[str, Any]:
    """How the number of different codes grows with the number of images: ``V(n) = k n^beta`` over ``n`` tokens.

    Args:
        first_seen: For each code that was seen, the position of the first image that holds it.
        images: How many images there are.
        tokens_per_image: Tokens of each.
    """
    points = np.unique(np.geomspace(1, images, min(images, 40)).astype(int))
    found = np.searchsorted(np.sort(first_seen), points, side="left")
    growth = np.polyfit(np.log(points * tokens_per_image), np.log(np.maximum(found, 1)), 1) if len(points) > 1 else None
    wanted = math.ceil(0.9 * len(first_seen))
    return {
        "beta": float(growth[0]) if growth is not None else 0.0,
        "k": float(np.exp(growth[1])) if growth is not None else float(len(first_seen)),
        "images_to_90_percent": int(np.sort(first_seen)[wanted - 1]) + 1,
        "images": points.tolist(),
        "codes": found.tolist(),
    }


def huffman_bits(counts: Int[np.ndarray, " v"]) -> float:
    """Mean length of a Huffman code, in bits per token.

    Example:
        >>> huffman_bits(np.array([2, 1, 1]))
        1.5
    """
    heap = [int(count) for count in counts if count > 0]
    heapq.heapify(heap)
    total, bits = sum(heap), 0
    while len(heap) > 1:
        joined = heapq.heappop(heap) + heapq.heappop(heap)
        bits += joined  # each merge adds a bit to all tokens below it
        heapq.heappush(heap, joined)
    return bits / total


def entropy(counts: Float[np.ndarray, " n"] | Int[np.ndarray, " n"]) -> float:
    """Plug-in entropy in bits."""
    probability = counts / counts.sum()
    return float(-(probability * np.log2(probability)).sum())


def language(ids: Int[np.ndarray, "n t"], vocabulary: int, seed: int = 0) -> dict[str, Any]:
    """Statistics of a corpus of images, one slot's ids in the order of the sequence (row by row for grids).

    Entropy rates are those of a token given the k - 1 before it in its image; over few tokens they are far too small.

    Args:
        ids: Ids of each image.
        vocabulary: Number of ids of the slot.
        seed: Of the order in which images are read for the growth of the vocabulary.

    Example:
        >>> found = language(np.array([[0, 1, 0, 1]] * 8), vocabulary=4)
        >>> found["entropy_bits"], found["entropy_rates"][1], found["compression"]
        (1.0, 0.0, 0.5)
    """
    images, tokens = ids.shape
    counts = np.bincount(ids.ravel(), minlength=vocabulary)
    bits = math.log2(vocabulary) if vocabulary > 1 else 1.0
    # Entropy rates: that of grams of so many tokens, less that of what comes before their last.
    rates, codes = list[float](), np.zeros((images, tokens), dtype=np.int64)
    kept: list[np.ndarray] = []
    for length in range(1, min(_GRAMS, tokens) + 1):
        contexts = codes[:, : tokens - length + 1]
        grams = contexts * vocabulary + ids[:, length - 1 :]
        _, before = np.unique(contexts, return_counts=True)
        _, codes, number = np.unique(grams, return_inverse=True, return_counts=True)  # small numbers, so none overflows
        codes = codes.reshape(grams.shape)
        kept.append(number)
        rates.append(entropy(number) - entropy(before))
    # Growth of the vocabulary, over images in a random order.
    order = np.random.default_rng(seed).permutation(images)
    shuffled = ids[order]
    _, place = np.unique(shuffled, return_index=True)
    rate = huffman_bits(counts)
    zipf = fit_zipf(counts)
    return {
        "images": images,
        "tokens_per_image": tokens,
        "vocabulary": vocabulary,
        "seen": int((counts > 0).sum()),
        "entropy_bits": rates[0],
        "relative_entropy": rates[0] / bits,
        "entropy_rates": rates,
        "huffman_bits": rate,
        "compression": 1 - rate / bits,
        "zipf": zipf._asdict(),
        "log_slopes_of_grams": [_log_slope(number) for number in kept],
        "heaps": heaps_growth(place // tokens, images, tokens),
        "ranked_counts": np.sort(counts[counts > 0])[::-1][
            np.unique(np.geomspace(1, max((counts > 0).sum(), 1), 60).astype(int)) - 1
        ].tolist(),
    }
