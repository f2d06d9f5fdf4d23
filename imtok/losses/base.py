"""The contract that every loss between two images keeps."""

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor, nn


class ImageLoss(nn.Module, ABC):
    """Compares a reconstruction with its target.

    Args:
        weight: Factor in the total, applied by the objective, so that ``forward`` stays the textbook quantity.

    Raises:
        ValueError: If the weight is negative.
    """

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        if weight < 0:
            raise ValueError(f"weight must not be negative, got {weight}")
        self.weight = weight

    @abstractmethod
    def forward(self, image: Float[Tensor, "b c h w"], target: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
        """Mean loss over the batch; images in ``[-1, 1]``."""
