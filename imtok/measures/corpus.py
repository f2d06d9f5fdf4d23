"""Keeps the ids of some images, in the order of the data set, for what needs more than their counts."""

from collections.abc import Sequence

import numpy as np
from typing_extensions import override
from xxhash import xxh64_intdigest

from imtok.distributed import gather_values
from imtok.measures.base import Bench, EvaluationBatch, Measure, MeasureResult
from imtok.measures.code_statistics import LARGEST_VOCABULARY
from imtok.measures.inference import Size
from imtok.measures.language import language
from imtok.tokenizer import Tokenizer


class LanguageMeasure(Measure):
    """Statistics of the token language, for each slot.

    Args:
        most: Images whose ids are kept, so that memory does not grow with the data set. Of more images these are
            drawn, the same ones each time: neighbours in a data set are often of one class.

    Raises:
        ValueError: If that is none.
    """

    needs_ids = True

    def __init__(self, most: int = 10_000) -> None:
        if most < 1:
            raise ValueError(f"most must be at least 1 image, got {most}")
        self.most = most
        self.kept: dict[int, np.ndarray] = {}
        self.flexible = False

    @override
    def set_up(self, bench: Bench) -> None:
        self.vocab_sizes, self.seed = bench.tokenizer.quantizer.vocab_sizes, bench.seed

    @override
    def missing(self, tokenizer: Tokenizer, size: Size) -> dict[str, str]:
        most = max(self.vocab_sizes, default=0)
        return {"language": f"a vocabulary of {most} ids is too large to count"} if most > LARGEST_VOCABULARY else {}

    @override
    def update(self, seen: EvaluationBatch) -> None:
        if max(self.vocab_sizes, default=0) > LARGEST_VOCABULARY:
            return
        self.flexible |= seen.reconstruction.quantized.keep is not None
        ids = seen.reconstruction.quantized.ids.cpu().numpy().astype(np.int32)
        self.keep(seen.batch.index.tolist(), ids)

    def keep(self, indices: Sequence[int], ids: np.ndarray) -> None:
        """Keep the ids of images, or of those images that are chosen.

        Args:
            indices: The place of each image in the data set.
            ids: ``images tokens slots``.
        """
        self.kept |= dict(zip(indices, ids, strict=True))
        if len(self.kept) > 2 * self.most:
            self.kept = self._drawn(self.kept)

    @override
    def finish(self) -> MeasureResult:
        merged: dict[int, np.ndarray] = {}
        flexible = False
        for kept, some in gather_values((self.kept, self.flexible)):
            merged |= kept
            flexible |= some
        if max(self.vocab_sizes, default=0) > LARGEST_VOCABULARY:
            return MeasureResult(
                absent={"language": f"a vocabulary of {max(self.vocab_sizes)} ids is too large to count"}
            )
        if not self.vocab_sizes or not merged or flexible:
            reason = "images have different numbers of tokens" if flexible else "there are no ids"
            return MeasureResult(absent={"language": reason})
        ids = np.stack(list(self._drawn(merged).values()))
        rows = [language(ids[..., slot], size, self.seed) for slot, size in enumerate(self.vocab_sizes)]
        return MeasureResult(tables={"language": rows}, arrays={"ids": ids})

    def _drawn(self, ids: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
        """At most ``most`` images, in order: those with the smallest random numbers, each a function of the index."""
        chosen = sorted(ids, key=lambda index: (xxh64_intdigest(index.to_bytes(8, "little")), index))[: self.most]
        return {index: ids[index] for index in sorted(chosen)}
