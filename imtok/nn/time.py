"""The time of a noisy map as a vector, by sines, cosines and a small network (as in DiT, arXiv 2212.09748)."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override


class TimeEmbedding(nn.Module):
    """Cosines and sines of the time at many frequencies, then two linear maps with SiLU between them.

    Args:
        width: Width of the vector.
        period: How many times faster the fastest frequency turns than the slowest; the fastest turns by 1000 rad
            between times 0 and 1.
        frequencies: How many of them.

    Example:
        >>> TimeEmbedding(width=32)(torch.tensor([0.0, 0.5, 1.0])).shape
        torch.Size([3, 32])
    """

    def __init__(self, width: int, period: float = 10000.0, frequencies: int = 128) -> None:
        super().__init__()
        self.period = period
        self.frequencies = frequencies
        self.linear1 = nn.Linear(2 * frequencies, width)
        self.linear2 = nn.Linear(width, width)

    @override
    def forward(self, times: Float[Tensor, " b"]) -> Float[Tensor, "b d"]:
        exponents = torch.arange(self.frequencies, device=times.device, dtype=times.dtype) / self.frequencies
        angles = 1000 * times[:, None] * torch.exp(-math.log(self.period) * exponents)
        waves = torch.cat([angles.cos(), angles.sin()], 1).to(self.linear1.weight.dtype)
        return self.linear2(F.silu(self.linear1(waves)))
