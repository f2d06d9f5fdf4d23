"""Positions of a grid that are not learned: sines and cosines, kept in a table as learned ones are."""

from typing import Literal, get_args

from typing_extensions import override

from imtok.nn.positions import Grid, GridPositions, sincos_positions

Axes = Literal["row column", "column row"]


class SincosPositions(GridPositions):
    """Sines and cosines of row and column, for the grid that is trained on and, where allowed, resized to others.

    Args:
        grid: Rows and columns that it is trained on.
        width: Width of the vectors, a multiple of 4.
        factor: Pixels per row and per column, for the message alone.
        interpolate: Resize the table (bicubic) for other grids; else they are refused.
        crop: Take the first rows and columns of the table for smaller grids.
        axes: Which axis the first half of the channels stands for: the row (FlexTok) or the column (DiT).

    Raises:
        ValueError: If ``axes`` is neither; in ``forward``, for another grid without ``interpolate``, and for a larger
            one with ``crop``.

    Example:
        >>> positions = SincosPositions((4, 4), width=8, factor=16)
        >>> positions((4, 4)).shape, list(positions.state_dict())
        (torch.Size([16, 8]), [])
    """

    def __init__(
        self,
        grid: Grid,
        width: int,
        factor: int,
        interpolate: bool = False,
        crop: bool = False,
        axes: Axes = "row column",
    ) -> None:
        super().__init__(grid, width, factor, interpolate, crop=crop)
        if axes not in get_args(Axes):
            raise ValueError(f"axes must be one of {', '.join(get_args(Axes))}, got {axes!r}")
        table = sincos_positions(grid, width)
        del self.table
        self.register_buffer("table", table if axes == "row column" else table.roll(width // 2, 1), persistent=False)

    @override
    def extra_repr(self) -> str:
        return f"grid={self.grid}"
