"""LayerScale (arXiv 2103.17239): a learned scale per channel on what each half of a block adds."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override


class LayerScale(nn.Module):
    """Multiplies each channel by a learned number.

    Args:
        width: Number of channels.
        start: What all of them are multiplied by at first.

    Example:
        >>> LayerScale(3, start=0.5)(torch.ones(1, 3)).tolist()
        [[0.5, 0.5, 0.5]]
    """

    def __init__(self, width: int, start: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((width,), float(start)))

    @override
    def forward(self, values: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        return values * self.scale
