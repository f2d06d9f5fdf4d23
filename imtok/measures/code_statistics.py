"""How much of its codebook a tokenizer uses."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor
from torchmetrics import Metric
from typing_extensions import override

LARGEST_VOCABULARY = 2**24  # counts of 128 MB
LARGEST_TABLE = 2**27
_FREQUENT = 0.08


class CodeUsage(Metric):
    """Counts the ids of each slot, and what follows from the counts.

    * ``usage``: fraction of the vocabulary that was seen at least once. It grows with the number of images.
    * ``entropy_bits``: plug-in entropy of the ids, in bits. It is too small while tokens are few per code.
    * ``entropy_bits_corrected``: the same with the correction of Miller and Madow, right for far fewer tokens.
    * ``perplexity``: 2 to that power, the number of codes that would be used if all were used alike.
    * ``relative_perplexity``: perplexity over vocabulary.
    * ``frequent``: fraction of the vocabulary seen at least 0.08 times as often as if all were used alike. Unlike
      usage it does not count a code that one odd patch hit.

    Args:
        vocab_sizes: Number of ids in each slot, at most 2^24.
        **settings: Of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: If a vocabulary is too large to count; in ``update``, if an id lies outside its slot's vocabulary.

    Example:
        >>> metric = CodeUsage([4])
        >>> metric.update(torch.tensor([[[0], [1], [0], [1]]]))
        >>> statistics = metric.compute()
        >>> statistics["usage"], statistics["entropy_bits"], statistics["perplexity"]
        ([0.5], [1.0], [2.0])
    """

    full_state_update = False
    convention = "over all tokens of the data set; mean over slots"

    def __init__(self, vocab_sizes: Sequence[int], **settings: Any) -> None:
        super().__init__(**settings)
        if any(not 1 <= size <= LARGEST_VOCABULARY for size in vocab_sizes):
            raise ValueError(f"vocabularies must have 1 to {LARGEST_VOCABULARY} ids to be counted, got {vocab_sizes}")
        self.vocab_sizes = tuple(vocab_sizes)
        for slot, size in enumerate(vocab_sizes):
            self.add_state(f"counts_{slot}", torch.zeros(size, dtype=torch.int64), dist_reduce_fx="sum")

    @property
    def counts(self) -> list[Int64[Tensor, " v"]]:
        """How often each id of each slot was seen."""
        return [getattr(self, f"counts_{slot}") for slot in range(len(self.vocab_sizes))]

    @override
    def update(self, ids: Int64[Tensor, "b t g"], keep: Bool[Tensor, "b t"] | None = None) -> None:
        """Count tokens in.

        Args:
            ids: Token ids.
            keep: True = transmitted; others do not count. None = all are.
        """
        if ids.shape[-1] != len(self.vocab_sizes):
            raise ValueError(f"ids must have {len(self.vocab_sizes)} slots, got {ids.shape[-1]}")
        tokens = ids.flatten(0, 1) if keep is None else ids[keep]
        _check(tokens, self.vocab_sizes)
        for slot, (counts, size) in enumerate(zip(self.counts, self.vocab_sizes, strict=True)):
            counts += torch.bincount(tokens[:, slot], minlength=size)

    @override
    def compute(self) -> dict[str, list[float]]:
        """Each statistic by name, one value per slot. Without any token, usage and entropy are 0."""
        return code_statistics(self.counts)


class PositionUsage(Metric):
    """Counts the ids of each slot at each position of the sequence, and their entropies.

    A tokenizer whose tokens are ordered shows it here: entropies fall, or stay level, along the sequence. There is
    only one token per image to estimate each from, so read the corrected ones, over thousands of images.

    Args:
        vocab_sizes: Number of ids in each slot.
        tokens: Tokens per image; times the sum of the vocabularies at most 2^27 (counts of 1 GB).
        **settings: Of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: If there is too much to count; in ``update``, if an id lies outside its slot's vocabulary or the
            number of tokens is another one.

    Example:
        >>> metric = PositionUsage([4], tokens=2)
        >>> metric.update(torch.tensor([[[0], [1]], [[0], [2]]]))
        >>> metric.compute()["entropy_bits"].tolist()  # position by slot
        [[0.0], [1.0]]
    """

    full_state_update = False

    def __init__(self, vocab_sizes: Sequence[int], tokens: int, **settings: Any) -> None:
        super().__init__(**settings)
        if tokens < 1 or any(size < 1 for size in vocab_sizes) or tokens * sum(vocab_sizes) > LARGEST_TABLE:
            raise ValueError(
                f"tokens times vocabularies must be 1 to {LARGEST_TABLE} to be counted, got {tokens} and {vocab_sizes}"
            )
        self.vocab_sizes, self.tokens = tuple(vocab_sizes), tokens
        for slot, size in enumerate(vocab_sizes):
            self.add_state(f"counts_{slot}", torch.zeros(tokens, size, dtype=torch.int64), dist_reduce_fx="sum")

    @property
    def counts(self) -> list[Int64[Tensor, "t v"]]:
        """How often each id of each slot was seen at each position."""
        return [getattr(self, f"counts_{slot}") for slot in range(len(self.vocab_sizes))]

    @override
    def update(self, ids: Int64[Tensor, "b t g"], keep: Bool[Tensor, "b t"] | None = None) -> None:
        """Count tokens in.

        Args:
            ids: Token ids.
            keep: True = transmitted; others do not count. None = all are.
        """
        if ids.shape[1:] != (self.tokens, len(self.vocab_sizes)):
            raise ValueError(
                f"ids must have {self.tokens} tokens of {len(self.vocab_sizes)} slots, got {tuple(ids.shape[1:])}"
            )
        _check(ids.flatten(0, 1) if keep is None else ids[keep], self.vocab_sizes)
        for slot, (counts, size) in enumerate(zip(self.counts, self.vocab_sizes, strict=True)):
            place = ids[..., slot] + torch.arange(self.tokens, device=ids.device) * size
            place = place.flatten() if keep is None else place[keep]
            counts += torch.bincount(place, minlength=self.tokens * size).view(self.tokens, size)

    @override
    def compute(self) -> dict[str, Float64[Tensor, "t g"]]:
        """``tokens`` counted, ``entropy_bits`` and ``entropy_bits_corrected`` of each position and slot."""
        return {
            "tokens": torch.stack([counts.sum(1).double() for counts in self.counts], dim=1),
            "entropy_bits": torch.stack([plug_in_entropy(counts) for counts in self.counts], dim=1),
            "entropy_bits_corrected": torch.stack([corrected_entropy(counts) for counts in self.counts], dim=1),
        }


def code_statistics(slots: Sequence[Int64[Tensor, " _"]]) -> dict[str, list[float]]:
    """What :class:`CodeUsage` says of counts: each statistic by name, one value per slot.

    Args:
        slots: How often each id of a slot was seen; as long as its vocabulary.
    """
    statistics: dict[str, list[float]] = {}
    for counts in slots:
        size, total = len(counts), int(counts.sum())
        entropy = plug_in_entropy(counts).item()
        values = {
            "usage": (counts > 0).double().mean().item(),
            "entropy_bits": entropy,
            "entropy_bits_corrected": corrected_entropy(counts).item(),
            "perplexity": 2**entropy,
            "relative_perplexity": 2**entropy / size,
            "frequent": (counts >= max(_FREQUENT * total / size, 1e-30)).double().mean().item(),
        }
        for name, value in values.items():
            statistics.setdefault(name, []).append(value)
    return statistics


def plug_in_entropy(counts: Int64[Tensor, "*positions v"]) -> Float64[Tensor, "*positions"]:
    """Entropy of relative frequencies, in bits; 0 where nothing was counted."""
    probability = counts.double() / counts.sum(-1, keepdim=True).clamp_min(1)
    return -(probability * probability.clamp_min(1e-30).log2()).sum(-1) + 0.0  # never -0.0


def corrected_entropy(counts: Int64[Tensor, "*positions v"]) -> Float64[Tensor, "*positions"]:
    """The plug-in entropy and the correction of Miller and Madow, ``(codes seen - 1) / (2 N)`` nats, in bits.

    Example:
        >>> round(corrected_entropy(torch.tensor([5, 5, 0])).item(), 4)  # 1 bit and 1 / 20 nats
        1.0721
    """
    seen, total = (counts > 0).sum(-1), counts.sum(-1)
    return plug_in_entropy(counts) + (seen - 1).clamp_min(0) / (2 * math.log(2) * total.clamp_min(1).double())


def _check(tokens: Int64[Tensor, "n g"], vocab_sizes: Sequence[int]) -> None:
    for slot, size in enumerate(vocab_sizes):
        column = tokens[:, slot]
        if column.numel() and (column.min() < 0 or column.max() >= size):
            raise ValueError(
                f"ids of slot {slot} must lie in [0, {size}), got {int(column.min())} to {int(column.max())}"
            )
