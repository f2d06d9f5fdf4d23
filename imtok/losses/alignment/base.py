"""The contract that every loss between a tokenizer's features and those of another net keeps."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from imtok.types import Quantized


class AlignmentLoss(nn.Module, ABC):
    """Draws features of the tokenizer towards those of another net.

    Args:
        weight: Factor in the total, applied by the objective, so that ``forward`` stays the textbook quantity.

    Raises:
        ValueError: If the weight is negative.

    Attributes:
        needs: Names of the tokenizer's sub-modules whose outputs it looks at.
        reads: What it looks at of a batch besides the images. With "caption", ``forward`` is also given ``captions``.
    """

    needs: tuple[str, ...] = ()
    reads: tuple[Literal["caption"], ...] = ()

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        if weight < 0:
            raise ValueError(f"weight must not be negative, got {weight}")
        self.weight = weight

    @abstractmethod
    def forward(
        self, target: Float[Tensor, "b c h w"], quantized: Quantized, taps: Mapping[str, Tensor], step: int
    ) -> Float[Tensor, ""]:
        """Mean loss over the batch.

        Args:
            target: The original, in ``[-1, 1]``.
            quantized: Its codes, as the decoder saw them.
            taps: What the sub-modules in ``needs`` gave, by name.
            step: Optimiser steps taken so far.
        """
