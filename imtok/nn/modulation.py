"""Adaptive layer norm: a condition shifts, scales and gates each half of a block (adaLN-zero, arXiv 2212.09748)."""

from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override


class Modulation(nn.Module):
    """Makes ``parts`` vectors of a condition, for each segment of a sequence its own. Zero at the start.

    Args:
        width: Width of condition and tokens.
        parts: How many vectors: 6 for a block (shift, scale, gate of attention, then of the MLP), 2 for a head.
        segments: How many segments of the sequence get vectors of their own.

    Example:
        >>> modulation = Modulation(width=8, parts=2, segments=2)
        >>> shift, scale = modulation(torch.randn(3, 8), lengths=[4, 1])
        >>> shift.shape
        torch.Size([3, 5, 8])
    """

    def __init__(self, width: int, parts: int, segments: int = 1) -> None:
        super().__init__()
        self.parts = parts
        self.segments = segments
        self.linear = nn.Linear(width, parts * segments * width)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    @override
    def forward(self, condition: Float[Tensor, "b d"], lengths: Sequence[int]) -> tuple[Float[Tensor, "b n d"], ...]:
        """The vectors.

        Args:
            condition: What they are made of.
            lengths: Tokens in each segment; one vector for all of them where there is but one segment.
        """
        vectors = rearrange(
            self.linear(F.silu(condition)), "b (s p d) -> p s b 1 d", p=self.parts, s=self.segments
        ).unbind()
        if self.segments == 1:
            return tuple(vector[0] for vector in vectors)
        if len(lengths) != self.segments:
            raise ValueError(f"lengths must be those of {self.segments} segments, got {list(lengths)}")
        return tuple(
            torch.cat([row.expand(-1, length, -1) for row, length in zip(vector, lengths, strict=True)], 1)
            for vector in vectors
        )


def modulate(
    tokens: Float[Tensor, "b n d"], shift: Float[Tensor, "b _ d"], scale: Float[Tensor, "b _ d"]
) -> Float[Tensor, "b n d"]:
    """Scale normed tokens by ``1 + scale`` and shift them."""
    return tokens * (1 + scale) + shift
