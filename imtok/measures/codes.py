"""How much of its codebook a tokenizer uses, and what its tokens cost."""

from typing import Any

import numpy as np
import torch
from typing_extensions import override

from imtok.distributed import sum_over_ranks
from imtok.measures.base import Found, Measure, Number, Seen
from imtok.measures.bits import Rate
from imtok.measures.code_statistics import LARGEST_VOCABULARY, CodeUsage, PositionUsage
from imtok.measures.inference import Size
from imtok.tokenizer import Tokenizer

_RATE = "transmitted tokens, without what it takes to send their number"
_CONVENTIONS = {
    "usage": f"fraction of codes seen at least once {CodeUsage.convention}",
    "entropy_bits": f"plug-in entropy of a slot's ids {CodeUsage.convention}",
    "entropy_bits_corrected": f"the same with the correction of Miller and Madow {CodeUsage.convention}",
    "perplexity": f"2 to the entropy {CodeUsage.convention}",
    "relative_perplexity": f"perplexity / vocabulary {CodeUsage.convention}",
    "frequent": f"fraction of codes seen at least 0.08 times as often as in uniform use {CodeUsage.convention}",
    "tokens_per_image": _RATE,
    "bits_per_pixel": f"log2 of the vocabulary per token; {_RATE}",
    "bits_per_pixel_entropy": f"plug-in entropy of each slot per token; {_RATE}",
}
_NO_POSITIONS = "there are no ids, or too many to count at each position"
_USE = ("usage", "entropy_bits", "entropy_bits_corrected", "perplexity", "relative_perplexity", "frequent")
_LARGEST_TABLE = 2**24  # counts per position and code: 128 MB


class CodeMeasure(Measure):
    """Counts ids and tokens.

    Args:
        vocab_sizes: Number of ids of each slot.
        bits_per_token: Nominal.
        device: Where to count.
    """

    def __init__(self, vocab_sizes: tuple[int, ...], bits_per_token: float, device: torch.device) -> None:
        self.vocab_sizes, self.bits_per_token, self.device = vocab_sizes, bits_per_token, device
        self.rate = Rate().to(device)
        countable = bool(vocab_sizes) and max(vocab_sizes) <= LARGEST_VOCABULARY
        self.codes = CodeUsage(vocab_sizes).to(device) if countable else None

    @override
    def update(self, seen: Seen) -> None:
        ids, keep = seen.reconstruction.quantized.ids.to(self.device), seen.reconstruction.quantized.keep
        # a multi-scale tokenizer has more tokens than latents, and transmits them all
        keep = keep.to(self.device) if keep is not None and keep.shape == ids.shape[:2] else None
        self.rate.update(ids, seen.size, keep)
        if self.codes is not None:
            self.codes.update(ids, keep)

    @override
    def numbers(self, size: Size) -> dict[str, bool | None]:
        rates = ["tokens_per_image", *["bits_per_pixel"] * bool(self.vocab_sizes)]
        if self.codes is None:
            return dict.fromkeys(rates)
        return dict.fromkeys(_USE, True) | dict.fromkeys([*rates, "bits_per_pixel_entropy"])

    @override
    def finish(self) -> Found:
        rates = self.rate.compute()
        statistics = self.codes.compute() if self.codes is not None else {}
        values = {name: sum(per_slot) / len(per_slot) for name, per_slot in statistics.items()}
        values["tokens_per_image"] = rates["tokens_per_image"]
        if self.vocab_sizes:
            values["bits_per_pixel"] = rates["tokens_per_pixel"] * self.bits_per_token
        if statistics:
            values["bits_per_pixel_entropy"] = rates["tokens_per_pixel"] * sum(statistics["entropy_bits"])
        facts: dict[str, Any] = {}
        counts = [sum_over_ranks(table) for table in self.codes.counts] if self.codes is not None else []
        return Found(
            {name: Number(value, _CONVENTIONS[name], facts) for name, value in values.items()},
            self._absent(),
            slots=[
                {name: per_slot[slot] for name, per_slot in statistics.items()}
                for slot in range(len(self.vocab_sizes) if statistics else 0)
            ],
            arrays={f"counts_{slot}": table.cpu().numpy() for slot, table in enumerate(counts)},
        )

    def _absent(self) -> dict[str, str]:
        if not self.vocab_sizes:
            reason = "latents are continuous: there are no ids"
            return dict.fromkeys(("usage", "perplexity", "bits_per_pixel"), reason)
        if max(self.vocab_sizes) > LARGEST_VOCABULARY:
            reason = f"a vocabulary of {max(self.vocab_sizes)} ids is too large to count"
            return dict.fromkeys(("usage", "perplexity", "bits_per_pixel_entropy"), reason)
        return {}


class PositionMeasure(Measure):
    """The entropy of the ids at each position of the sequence: ordered tokenizers show their order here."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.metric: PositionUsage | None = None

    @override
    def missing(self, tokenizer: Tokenizer, size: Size) -> dict[str, str]:
        vocab_sizes, tokens = tokenizer.quantizer.vocab_sizes, tokenizer.num_tokens(size)
        countable = vocab_sizes and tokens * sum(vocab_sizes) <= _LARGEST_TABLE
        return {} if countable else {"positions": _NO_POSITIONS}

    @override
    def start(self, tokenizer: Tokenizer, size: Size) -> None:
        if not self.missing(tokenizer, size):
            tokens = tokenizer.num_tokens(size)
            self.metric = PositionUsage(tokenizer.quantizer.vocab_sizes, tokens).to(self.device)

    @override
    def update(self, seen: Seen) -> None:
        if self.metric is not None:
            ids, keep = seen.reconstruction.quantized.ids.to(self.device), seen.reconstruction.quantized.keep
            keep = keep.to(self.device) if keep is not None and keep.shape == ids.shape[:2] else None
            self.metric.update(ids, keep)

    @override
    def finish(self) -> Found:
        if self.metric is None:
            return Found(absent={"positions": _NO_POSITIONS})
        # torchmetrics takes the axes off a single number
        shape = (self.metric.tokens, len(self.metric.vocab_sizes))
        table = {name: values.cpu().numpy().reshape(shape) for name, values in self.metric.compute().items()}
        return Found(
            tables={"positions": {name: np.round(values, 6).tolist() for name, values in table.items()}},
            arrays={f"position_{name}": values for name, values in table.items()},
        )
