"""A score of each image that the data say, such as how complex it is, as a quality for the part that reads one."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Int64
from torch import Tensor
from typing_extensions import override

from imtok.conditions.base import Conditioner
from imtok.errors import InputError
from imtok.types import Condition


class Score(Conditioner):
    """The number that stands where other data have a caption; NaN where nothing stands.

    CAT's encoder (arXiv 2501.03120) chooses the number of tokens by it. The paper's scores are those of a language
    model that reads captions.

    Example:
        >>> Score()(["3.5", ""], torch.tensor([-1, -1])).quality
        tensor([3.5000,    nan])
    """

    reads = ("caption",)
    gives = ("quality",)
    example_caption = "5.0"

    @override
    def forward(self, captions: Sequence[str], labels: Int64[Tensor, " b"]) -> Condition:
        return Condition(quality=torch.tensor([_number(caption) for caption in captions], device=labels.device))


def _number(caption: str) -> float:
    """A caption as a finite number, or NaN for none."""
    if not caption.strip():
        return math.nan
    try:
        number = float(caption)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(
            f"condition=score reads a number for each image, got {caption!r:.60}; name the column of scores, as in "
            "data.caption=score"
        )
    return number
