"""How many tokens the images of a data set need for a given quality: statistics of ``search_length``."""

from typing import Any

import numpy as np
from typing_extensions import override

from imtok.distributed import gather_values
from imtok.measures.base import EvaluationBatch, Measure, MeasureResult
from imtok.measures.inference import Size
from imtok.measures.length import possible_lengths, search_length
from imtok.tokenizer import Tokenizer


class LengthMeasure(Measure):
    """The least number of tokens, a power of two or all of them, at which each image reaches a PSNR.

    Args:
        target: In dB.
    """

    needs_ids = True

    def __init__(self, target: float = 25.0) -> None:
        self.target = target
        self.tried: list[int] = []
        self.lengths: list[int] = []
        self.reached: list[bool] = []
        self.reason: str | None = None

    @override
    def missing(self, tokenizer: Tokenizer, size: Size) -> dict[str, str]:
        if tokenizer.decoder.flexible:
            return {}
        return {"length": f"the tokenizer always takes {tokenizer.num_tokens(size)} tokens"}

    @override
    def start(self, tokenizer: Tokenizer, size: Size) -> None:
        self.reason = self.missing(tokenizer, size).get("length")
        if self.reason is None:
            self.tried = possible_lengths(tokenizer, size)

    @override
    def update(self, seen: EvaluationBatch) -> None:
        if self.reason is None:
            # for each length anew: of encoders with a budget (ALIT, KARL) a prefix is no code of fewer tokens
            lengths, values = search_length(
                seen.tokenizer, seen.image, self.target, None, self.tried, "each", seen.condition
            )
            self.lengths += lengths.tolist()
            self.reached += (values >= self.target).tolist()

    @override
    def finish(self) -> MeasureResult:
        parts = gather_values((self.reason, self.lengths, self.reached))
        reason = next((reason for reason, *_ in parts if reason), None)
        lengths = np.array([length for _, own, _ in parts for length in own])
        reached = np.array([one for *_, own in parts for one in own], dtype=bool)
        if reason or not len(lengths):
            return MeasureResult(absent={"length": reason or "there is no image"})
        enough = lengths[reached]
        values, counts = np.unique(enough, return_counts=True)
        table: dict[str, Any] = {
            "target_psnr": self.target,
            "reached": float(reached.mean()),
            "missed": int((~reached).sum()),
            "mean_of_reached": float(enough.mean()) if len(enough) else None,
            "median_of_reached": float(np.median(enough)) if len(enough) else None,
            "mean_with_all_where_missed": float(lengths.mean()),
            "median_with_all_where_missed": float(np.median(lengths)),
            "lengths": values.tolist(),
            "images": counts.tolist(),
        }
        return MeasureResult(tables={"length": table})
