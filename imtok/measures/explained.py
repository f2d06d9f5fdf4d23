"""How much of the images' variance the first tokens explain, and whether each adds less than the one before."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Int64, Real
from torch import Tensor
from typing_extensions import override

from imtok.distributed import gather_values
from imtok.measures.base import EvaluationBatch, Measure, MeasureResult, Number, Quantity
from imtok.measures.inference import Size, require_finite
from imtok.measures.length import possible_lengths
from imtok.pixels import to_levels
from imtok.tokenizer import Tokenizer

_STEPS = 257  # of a level: grey of 16 bits and colours of 8 are whole numbers of them, and sums do not depend on order
_UNIT = 2.0**-20  # of means of squares, of which int64 holds a hundred million
_CONVENTION = "1 - squared error / squared distance from the mean image, over all rounded pixels of all images"


class ExplainedVarianceMeasure(Measure):
    """The share of the pixels' variance around the mean image that reconstructions of the first tokens explain.

    Semanticist (arXiv 2503.08685) wants tokens like principal components: each explains less than the one before.

    Args:
        lengths: Numbers of tokens; None = powers of two and all. Between two of them their tokens count alike.

    Raises:
        ValueError: If a length is below 1.
    """

    quantities = (
        Quantity(
            "explained_variance",
            "Explained variance",
            "share of the variance",
            _CONVENTION,
            higher_is_better=True,
            meaning="How much of what distinguishes images from their mean is in the reconstructions of all tokens.",
        ),
        Quantity(
            "explained_variance_order",
            "Order of explained variance",
            "share of steps",
            f"{_CONVENTION}; a step is from one measured number of tokens to the next",
            higher_is_better=True,
            meaning="In how many steps a token explains at most as much as one of the step before. 1 is the order of "
            "principal components.",
        ),
    )

    def __init__(self, lengths: Sequence[int] | None = None) -> None:
        if lengths is not None and not (lengths and all(length >= 1 for length in lengths)):
            raise ValueError(f"lengths must be some numbers of at least 1 token or null, got {list(lengths)}")
        self.lengths = lengths
        self.tried: list[int] = []
        self.errors: Int64[Tensor, " lengths"] = torch.zeros(0, dtype=torch.int64)
        self.sums: Tensor | None = None  # of each pixel over images
        self.squares, self.images = 0, 0

    @override
    def missing(self, tokenizer: Tokenizer, size: Size) -> dict[str, str]:
        if tokenizer.decoder.flexible:
            return {}
        return {"explained_variance": f"the tokenizer always takes {tokenizer.num_tokens(size)} tokens"}

    @override
    def start(self, tokenizer: Tokenizer, size: Size) -> None:
        if not self.missing(tokenizer, size):
            self.tried = possible_lengths(tokenizer, size, self.lengths)
            self.errors = torch.zeros(len(self.tried), dtype=torch.int64)

    @override
    def update(self, seen: EvaluationBatch) -> None:
        if not self.tried:
            return
        target = seen.target.cpu()
        steps = (target.double() * _STEPS).round().long()
        self.sums = steps.sum(0) if self.sums is None else self.sums + steps.sum(0)
        self.squares += _squares(target, torch.zeros_like(target))
        self.images += len(target)
        for place, length in enumerate(self.tried):
            if length == self.tried[-1] and seen.whole:
                pixels = seen.pixels
            else:
                image = seen.tokenizer(seen.image, length=length, condition=seen.condition).image
                require_finite(image, seen.batch.key, f"reconstruction from {length} tokens")
                pixels = to_levels(image)
            self.errors[place] += _squares(pixels.cpu(), target)

    @override
    def finish(self) -> MeasureResult:
        parts = gather_values((self.tried, self.errors.tolist(), self.squares, self.images, self.sums))
        tried = next((own for own, *_ in parts if own), [])
        sums = [own for *_, own in parts if own is not None]
        if not tried or not sums:
            return MeasureResult(absent={"explained_variance": "the tokenizer is of one length, or there is no image"})
        images = sum(own for *_, own, _ in parts)
        mean = torch.stack(sums).sum(0).double() / _STEPS / images
        variance = sum(own for _, _, own, *_ in parts) * _UNIT / images - mean.square().mean().item()
        if variance < 1e-6:
            return MeasureResult(absent={"explained_variance": "all images are the same: there is no variance"})
        errors = [sum(own[place] for _, own, *_ in parts if own) * _UNIT / images for place in range(len(tried))]
        explained = [1 - error / variance for error in errors]
        table = rows(tried, explained)
        facts = {"lengths": tried}
        found = MeasureResult(
            {"explained_variance": Number(explained[-1], facts=facts)}, tables={"explained_variance": table}
        )
        added = [row["added_per_token"] for row in table]
        if len(added) > 1:
            falling = [after <= before for before, after in pairwise(added)]
            found.numbers["explained_variance_order"] = Number(sum(falling) / len(falling), facts=facts)
        else:
            found.absent["explained_variance_order"] = "there is one number of tokens"
        return found


def rows(tried: Sequence[int], explained: Sequence[float]) -> list[dict[str, Any]]:
    """A row for each number of tokens: what they explain, and what each added since the number before.

    Example:
        >>> [row["added_per_token"] for row in rows([1, 2, 4], [0.5, 0.75, 1.0])]
        [0.5, 0.25, 0.125]
    """
    before = [(0, 0.0), *zip(tried, explained, strict=True)]
    return [
        {"tokens": tokens, "explained_variance": value, "added_per_token": (value - last) / (tokens - fewer)}
        for (fewer, last), (tokens, value) in pairwise(before)
    ]


def _squares(pixels: Real[Tensor, "b c h w"], target: Real[Tensor, "b c h w"]) -> int:
    """The mean squared difference of each pair in whole units, summed over pairs."""
    return int(((pixels.double() - target.double()).square().mean((1, 2, 3)) / _UNIT).round().long().sum())
