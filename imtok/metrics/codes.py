"""How much of its codebook a tokenizer uses."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int64
from torch import Tensor
from torchmetrics import Metric
from typing_extensions import override

LARGEST_VOCABULARY = 2**24  # counts of 128 MB
_FREQUENT = 0.08


class CodeUsage(Metric):
    """Counts the ids of each slot, and what follows from the counts.

    * ``usage``: fraction of the vocabulary that was seen at least once. It grows with the number of images.
    * ``entropy_bits``: plug-in entropy of the ids, in bits.
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
        for slot, (counts, size) in enumerate(zip(self.counts, self.vocab_sizes, strict=True)):
            column = tokens[:, slot]
            if column.numel() and (column.min() < 0 or column.max() >= size):
                raise ValueError(
                    f"ids of slot {slot} must lie in [0, {size}), got {int(column.min())} to {int(column.max())}"
                )
            counts += torch.bincount(column, minlength=size)

    @override
    def compute(self) -> dict[str, list[float]]:
        """Each statistic by name, one value per slot. Without any token, usage and entropy are 0."""
        statistics: dict[str, list[float]] = {}
        for counts, size in zip(self.counts, self.vocab_sizes, strict=True):
            total = int(counts.sum())
            probability = counts.double() / max(total, 1)
            entropy = -(probability * probability.clamp_min(1e-30).log2()).sum().item() + 0.0  # never -0.0
            values = {
                "usage": (counts > 0).double().mean().item(),
                "entropy_bits": entropy,
                "perplexity": 2**entropy,
                "relative_perplexity": 2**entropy / size,
                "frequent": (counts >= max(_FREQUENT * total / size, 1e-30)).double().mean().item(),
            }
            for name, value in values.items():
                statistics.setdefault(name, []).append(value)
        return statistics
