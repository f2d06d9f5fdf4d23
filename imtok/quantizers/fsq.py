"""Finite scalar quantization (FSQ, arXiv 2309.15505)."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from typing_extensions import override

from imtok.quantizers.base import Quantizer, straight_through
from imtok.quantizers.search import nearest_codes
from imtok.types import Quantized


class FSQ(Quantizer):
    """Rounds each channel to one of a few evenly spaced levels in [-1, 1].

    ``round(tanh(z + s) h - o)``, where ``h`` is half the width of the grid, ``o`` is 1/2 for an even number of
    levels, and ``s = atanh(o / h)`` makes 0 stay 0. There is no codebook to learn and no loss: the codes are all
    combinations of levels. The slope of the tanh is part of the gradient.

    An even number of levels has 0 as a code and one level more below it than above. With two levels all latents from
    -3.8 up are then 0, so that a net which begins near 0 has one code. ``symmetric`` spreads the levels from -1 to 1
    and puts the middle between two codes at 0 (arXiv 2411.19842).

    Args:
        levels: Number of levels of each channel, at least 2 each; their number is the width of the latents.
        symmetric: Whether codes are symmetric about 0; an odd number of levels has the same codes either way.

    Raises:
        ValueError: For an empty list, a number of levels below 2, or a vocabulary above 2^62.

    Attributes:
        level_counts: Number of levels of each channel.

    Example:
        >>> quantizer = FSQ(levels=[8, 5, 5, 5])
        >>> quantizer.dim, quantizer.vocab_sizes
        (4, (1000,))
        >>> quantizer(torch.zeros(1, 16, 4)).ids.shape
        torch.Size([1, 16, 1])
    """

    levels: Int64[Tensor, " d"]
    places: Int64[Tensor, " d"]
    halves: Float[Tensor, " d"]

    def __init__(self, levels: Sequence[int], symmetric: bool = False) -> None:
        super().__init__()
        if not levels or min(levels) < 2 or math.prod(levels) > 2**62:
            raise ValueError(
                f"levels must be a list of whole numbers >= 2 with a product of at most 2^62, got {list(levels)}"
            )
        self.dim = len(levels)
        self.level_counts = tuple(levels)
        self.symmetric = symmetric
        self.vocab_sizes = (math.prod(levels),)
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        self.register_buffer("places", torch.tensor([1, *levels[:-1]]).cumprod(0), persistent=False)
        # Not whole numbers: they follow the module to float64, and the codes follow them.
        self.register_buffer("halves", (self.levels // 2).float(), persistent=False)

    @override
    def quantize(self, latents: Float[Tensor, "b n d"], keep: Bool[Tensor, "b n"] | None) -> Quantized:
        width = (self.levels - 1).to(latents.dtype)
        if self.symmetric:
            bounded = latents.tanh()
            digits = ((bounded.detach().nan_to_num() + 1) / 2 * width + 0.5).floor().long() - self.levels // 2
        else:
            half_width = width * (1 + 1e-3) / 2
            offset = (1 - self.levels % 2).to(latents.dtype) / 2  # an even grid has no middle level
            grid = (latents + (offset / half_width).atanh()).tanh() * half_width - offset
            digits, bounded = grid.detach().nan_to_num().round().long(), grid / (self.levels // 2)
        codes = self._codes(digits).to(latents.dtype)
        ids = ((digits + self.levels // 2) * self.places).sum(-1, keepdim=True)
        return Quantized(straight_through(codes, bounded), ids)

    @override
    def decode(self, ids: Int64[Tensor, "b t g"], slots: int | None = None) -> Float[Tensor, "b n d"]:
        return self._codes(self._digits(ids))

    @override
    def codebook(self) -> list[Float[Tensor, "v d"]]:
        return [self._codes(self._digits(torch.arange(self.vocab_sizes[0], device=self.levels.device)[:, None]))]

    @override
    def neighbours(self, ids: Int64[Tensor, "b t g"], count: int) -> Int64[Tensor, "b t g count"]:
        grid = self._digits(torch.arange(self.vocab_sizes[0], device=ids.device)[:, None]).float()
        return nearest_codes(ids, grid, count)

    def values(self) -> Float[Tensor, "d levels"]:
        """The values of each channel's levels; beyond its last level, a channel's row holds no codes."""
        levels = torch.arange(max(self.level_counts), device=self.levels.device)[:, None]
        return self._codes(levels - self.levels // 2).T

    def _digits(self, ids: Int64[Tensor, "*shape 1"]) -> Int64[Tensor, "*shape d"]:
        return ids // self.places % self.levels - self.levels // 2

    def _codes(self, digits: Int64[Tensor, "*shape d"]) -> Float[Tensor, "*shape d"]:
        if self.symmetric:
            return (digits + self.levels // 2).to(self.halves.dtype) * 2 / (self.levels - 1) - 1
        return digits.to(self.halves.dtype) / self.halves
