"""Positions that are read off a fine learned map, for coarser grids of any shape (KARL, arXiv 2507.07995)."""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.nn.positions import Grid


class SampledPositions(nn.Module):
    """A learned map of ``side`` x ``side`` vectors; a grid takes the nearest one for each of its positions.

    Args:
        grid: Rows and columns that it is trained on.
        width: Width of the vectors.
        factor: Pixels per row and per column, for the message alone.
        interpolate: Read other grids off the map too; else they are refused.
        side: Rows and columns of the map.
        std: Standard deviation of the initial vectors.

    Raises:
        ValueError: In ``forward``, for another grid without ``interpolate``.

    Example:
        >>> SampledPositions((4, 4), width=8, factor=16, interpolate=True)((2, 3)).shape
        torch.Size([6, 8])
    """

    def __init__(
        self, grid: Grid, width: int, factor: int, interpolate: bool = False, side: int = 64, std: float = 0.02
    ) -> None:
        super().__init__()
        self.grid = grid
        self.factor = factor
        self.interpolate = interpolate
        self.map = nn.Parameter(torch.randn(side, side, width) * std)

    @override
    def forward(self, grid: Grid) -> Float[Tensor, "n d"]:
        if grid != self.grid and not self.interpolate:
            trained, asked = (f"{rows * self.factor} x {columns * self.factor}" for rows, columns in (self.grid, grid))
            raise ValueError(
                f"image size must be {trained}, the size that the positions were trained on, got {asked}; resize the "
                "images, or set positions=interpolated"
            )
        side = len(self.map)
        rows, columns = (torch.arange(count, device=self.map.device) * side // count for count in grid)
        return rearrange(self.map[rows][:, columns], "h w d -> (h w) d")
