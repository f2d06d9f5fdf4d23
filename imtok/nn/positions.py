"""Where a token stands: learned tables, sines and cosines, rotations (RoPE, arXiv 2104.09864)."""

from collections.abc import Sequence
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

Grid = tuple[int, int]
OtherSizes = Literal["fixed", "cropped", "interpolated"]
Rotation = Float[Tensor, "n c"] | Float[Tensor, "b n c"]


class GridPositions(nn.Module):
    """A learned vector for each position of a grid, row by row.

    Args:
        grid: Rows and columns that it is trained on.
        width: Width of the vectors.
        factor: Pixels per row and per column, for the message alone.
        interpolate: Resize the table (bicubic) for other grids; else they are refused.
        std: Standard deviation of the initial vectors.
        offset: Resized is by ``(n + offset) / trained`` for ``n`` positions, as the code of DINO does it with 0.1.
        crop: Take the first rows and columns of the table for smaller grids, as the code of FlexTok does it.
            ``interpolate`` goes first.

    Raises:
        ValueError: In ``forward``, for another grid without ``interpolate``, and for a larger one with ``crop``.

    Example:
        >>> GridPositions((4, 4), width=8, factor=16, interpolate=True)((2, 3)).shape
        torch.Size([6, 8])
    """

    def __init__(
        self,
        grid: Grid,
        width: int,
        factor: int,
        interpolate: bool = False,
        std: float = 0.02,
        offset: float = 0.0,
        crop: bool = False,
    ) -> None:
        super().__init__()
        self.grid, self.offset, self.crop = grid, offset, crop
        self.factor = factor
        self.interpolate = interpolate
        self.table = nn.Parameter(torch.randn(grid[0] * grid[1], width) * std)

    @override
    def forward(self, grid: Grid) -> Float[Tensor, "n d"]:
        if grid == self.grid:
            return self.table
        if self.crop and not self.interpolate and grid[0] <= self.grid[0] and grid[1] <= self.grid[1]:
            return rearrange(self.table, "(h w) d -> h w d", h=self.grid[0])[: grid[0], : grid[1]].flatten(0, 1)
        if not self.interpolate:
            trained, asked = (f"{rows * self.factor} x {columns * self.factor}" for rows, columns in (self.grid, grid))
            most = "at most " if self.crop else ""
            raise ValueError(
                f"image size must be {most}{trained}, the size that the positions were trained on, got {asked}; "
                "resize the images, or set positions=interpolated"
            )
        table = rearrange(self.table, "(h w) d -> 1 d h w", h=self.grid[0])
        if self.offset:
            scale = [(asked + self.offset) / trained for asked, trained in zip(grid, self.grid, strict=True)]
            resized = F.interpolate(table.float(), scale_factor=scale, mode="bicubic", align_corners=False)
        else:
            resized = F.interpolate(table.float(), size=grid, mode="bicubic", align_corners=False)
        return rearrange(resized, "1 d h w -> (h w) d").to(self.table.dtype)


def sincos_positions(grid: Grid, width: int) -> Float[Tensor, "n d"]:
    """Fixed positions of a grid, row by row: sines and cosines of the row, then of the column (arXiv 2111.06377).

    Args:
        grid: Rows and columns.
        width: A multiple of 4.

    Example:
        >>> sincos_positions((2, 2), width=4)[0].tolist()
        [0.0, 1.0, 0.0, 1.0]
    """
    if width % 4:
        raise ValueError(f"width must be a multiple of 4 for sines and cosines of two axes, got {width}")
    rows, columns = torch.meshgrid(
        torch.arange(grid[0], dtype=torch.float64), torch.arange(grid[1], dtype=torch.float64), indexing="ij"
    )
    frequencies = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    halves = []
    for axis in (rows, columns):
        angles = axis.flatten()[:, None] * frequencies
        halves += [angles.sin(), angles.cos()]
    return torch.cat(halves, 1).float()


def grid_coordinates(grid: Grid) -> Float[Tensor, "n 2"]:
    """Row and column of each position of a grid, row by row."""
    return torch.cartesian_prod(torch.arange(grid[0]), torch.arange(grid[1])).float()


def rotations(
    coordinates: Float[Tensor, "n axes"], widths: Sequence[int], theta: float = 10000.0
) -> Float[Tensor, "n c"]:
    """Angles by which pairs of channels are turned, for :func:`rotate`.

    Args:
        coordinates: Of each token, one column per axis.
        widths: Channels of a head that each axis turns: even; their sum is the head's width.
        theta: Base of the wavelengths.
    """
    if any(width % 2 for width in widths) or coordinates.shape[-1] != len(widths):
        raise ValueError(f"widths must be an even number for each of {coordinates.shape[-1]} axes, got {list(widths)}")
    angles = []
    for axis, width in enumerate(widths):
        frequencies = theta ** -(torch.arange(0, width, 2, device=coordinates.device, dtype=coordinates.dtype) / width)
        angles.append(coordinates[:, axis, None] * frequencies)
    return torch.cat(angles, 1)


def rotate(heads: Float[Tensor, "b k n d"], rotation: Rotation) -> Float[Tensor, "b k n d"]:
    """Turn neighbouring pairs of channels by the angles of ``rotation`` (half as wide as a head).

    It computes as precisely as the more precise of both, and the angles' cosines as precisely as the angles.
    """
    angles = rotation if rotation.ndim == 2 else rearrange(rotation, "b n c -> b 1 n c")
    cosine, sine = angles.cos(), angles.sin()
    precise = heads.to(torch.promote_types(heads.dtype, angles.dtype))
    first, second = precise.unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([first * cosine - second * sine, first * sine + second * cosine], -1)
    return turned.flatten(-2).to(heads.dtype)
