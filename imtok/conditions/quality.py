"""The same wanted quality for every image, unless a command says another."""

from collections.abc import Sequence

import torch
from jaxtyping import Int64
from torch import Tensor
from typing_extensions import override

from imtok.conditions.base import Conditioner
from imtok.types import Condition


class Quality(Conditioner):
    """A wanted quality, in the unit of the part that reads it: of KARL's encoder, the mean absolute error of pixels.

    ``imtok export condition.quality=0.1`` and other commands set another one.

    Args:
        quality: For all images.

    Example:
        >>> Quality(0.05)(["", ""], torch.tensor([-1, -1])).quality
        tensor([0.0500, 0.0500])
    """

    gives = ("quality",)

    def __init__(self, quality: float = 0.05) -> None:
        super().__init__()
        self.quality = quality

    @override
    def forward(self, captions: Sequence[str], labels: Int64[Tensor, " b"]) -> Condition:
        return Condition(quality=torch.full((len(labels),), self.quality, device=labels.device))
