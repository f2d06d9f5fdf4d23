"""How much of its codebook a tokenizer uses, and what its tokens cost."""

from collections.abc import Sequence

import numpy as np
from typing_extensions import override

from imtok.distributed import sum_over_ranks
from imtok.measures.base import Bench, EvaluationBatch, Measure, MeasureResult, Number, Quantity
from imtok.measures.bits import Rate
from imtok.measures.code_statistics import LARGEST_VOCABULARY, CodeUsage, PositionUsage
from imtok.measures.inference import Size
from imtok.tokenizer import Tokenizer

_RATE = "transmitted tokens, without what it takes to send their number"
_USE = tuple(
    Quantity(name, title, unit, f"{convention} {CodeUsage.convention}", higher_is_better=True, meaning=meaning)
    for name, title, unit, convention, meaning in (
        (
            *("usage", "Codebook usage", "share of codes", "fraction of codes seen at least once"),
            "How much of the codebook was seen at least once, as a share of 1.",
        ),
        (
            *("entropy_bits", "Entropy", "bits per slot", "plug-in entropy of a slot's ids"),
            "How many bits a token carries if each is coded by how often its code occurs.",
        ),
        (
            *("entropy_bits_corrected", "Entropy, corrected", "bits per slot"),
            "the same with the correction of Miller and Madow",
            "The entropy with the correction of Miller and Madow for few tokens.",
        ),
        (
            *("perplexity", "Perplexity", "codes", "2 to the entropy"),
            "So many codes, used evenly, would have the same entropy.",
        ),
        (
            *("relative_perplexity", "Perplexity / vocabulary", "share of codes", "perplexity / vocabulary"),
            "The perplexity divided by all codes.",
        ),
        (
            *("frequent", "Frequent codes", "share of codes"),
            "fraction of codes seen at least 0.08 times as often as in uniform use",
            "Codes seen at least 0.08 times as often as if all were used evenly.",
        ),
    )
)
_TOKENS = Quantity(
    *("tokens_per_image", "Tokens", "per image", _RATE),
    meaning="How many tokens are sent for an image, the mean over images.",
)
_BITS = Quantity(
    *("bits_per_pixel", "Rate", "bits per pixel", f"log2 of the vocabulary per token; {_RATE}"),
    meaning="Tokens times the bits that name a code, divided by the pixels of the image.",
)
_ENTROPY = Quantity(
    *("bits_per_pixel_entropy", "Rate by entropy", "bits per pixel"),
    f"plug-in entropy of each slot per token; {_RATE}",
    meaning="The same with the entropy of each slot in place of all its bits.",
)
_NO_POSITIONS = "there are no ids, or too many to count at each position"
_LARGEST_TABLE = 2**24  # counts per position and code: 128 MB


class CodeMeasure(Measure):
    """Counts ids and tokens."""

    quantities = (*_USE, _TOKENS, _BITS, _ENTROPY)
    any_size = True

    @override
    def set_up(self, bench: Bench) -> None:
        quantizer, self.device = bench.tokenizer.quantizer, bench.exact
        self.vocab_sizes, self.bits_per_token = quantizer.vocab_sizes, quantizer.bits_per_token
        self.rate = Rate().to(self.device)
        countable = bool(self.vocab_sizes) and max(self.vocab_sizes) <= LARGEST_VOCABULARY
        self.codes = CodeUsage(self.vocab_sizes).to(self.device) if countable else None

    @override
    def update(self, seen: EvaluationBatch) -> None:
        ids, keep = seen.reconstruction.quantized.ids.to(self.device), seen.reconstruction.quantized.keep
        # a multi-scale tokenizer has more tokens than latents, and transmits them all
        keep = keep.to(self.device) if keep is not None and keep.shape == ids.shape[:2] else None
        self.rate.update(ids, seen.size, keep)
        if self.codes is not None:
            self.codes.update(ids, keep)

    @override
    def numbers(self, size: Size) -> Sequence[Quantity]:
        if self.codes is not None:
            return self.quantities
        return (_TOKENS, _BITS) if self.vocab_sizes else (_TOKENS,)

    @override
    def finish(self) -> MeasureResult:
        rates = self.rate.compute()
        statistics = self.codes.compute() if self.codes is not None else {}
        values = {name: sum(per_slot) / len(per_slot) for name, per_slot in statistics.items()}
        values["tokens_per_image"] = rates["tokens_per_image"]
        if self.vocab_sizes:
            values["bits_per_pixel"] = rates["tokens_per_pixel"] * self.bits_per_token
        if statistics:
            values["bits_per_pixel_entropy"] = rates["tokens_per_pixel"] * sum(statistics["entropy_bits"])
        counts = [sum_over_ranks(table) for table in self.codes.counts] if self.codes is not None else []
        return MeasureResult(
            {name: Number(value) for name, value in values.items()},
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

    needs_ids = True

    def __init__(self) -> None:
        self.metric: PositionUsage | None = None

    @override
    def set_up(self, bench: Bench) -> None:
        self.device = bench.exact

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
    def update(self, seen: EvaluationBatch) -> None:
        if self.metric is not None:
            ids, keep = seen.reconstruction.quantized.ids.to(self.device), seen.reconstruction.quantized.keep
            keep = keep.to(self.device) if keep is not None and keep.shape == ids.shape[:2] else None
            self.metric.update(ids, keep)

    @override
    def finish(self) -> MeasureResult:
        if self.metric is None:
            return MeasureResult(absent={"positions": _NO_POSITIONS})
        # torchmetrics takes the axes off a single number
        shape = (self.metric.tokens, len(self.metric.vocab_sizes))
        table = {name: values.cpu().numpy().reshape(shape) for name, values in self.metric.compute().items()}
        return MeasureResult(
            tables={"positions": {name: np.round(values, 6).tolist() for name, values in table.items()}},
            arrays={f"position_{name}": values for name, values in table.items()},
        )
