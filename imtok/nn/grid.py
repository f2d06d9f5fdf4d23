"""The edge between feature maps and sequences: row by row, with sizes checked."""

from einops import rearrange
from jaxtyping import Float
from torch import Tensor


def grid_size(size: tuple[int, int], factor: int) -> tuple[int, int]:
    """Rows and columns of the grid that is ``factor`` times smaller than ``size``.

    Args:
        size: Height and width, in pixels.
        factor: Pixels per row and per column of the grid.

    Raises:
        ValueError: If a side is not a positive multiple of ``factor``.
    """
    height, width = size
    if height < factor or width < factor or height % factor or width % factor:
        raise ValueError(
            f"image size must be a positive multiple of {factor} in height and width, got {height} x {width}; "
            "crop or resize the images"
        )
    return height // factor, width // factor


def to_sequence(features: Float[Tensor, "b d h w"]) -> Float[Tensor, "b n d"]:
    """A map as a sequence, row by row."""
    return rearrange(features, "b d h w -> b (h w) d")


def to_map(sequence: Float[Tensor, "b n d"], size: tuple[int, int], factor: int) -> Float[Tensor, "b d h w"]:
    """A sequence as the map that fills ``size`` at ``factor`` pixels per position: the inverse of ``to_sequence``.

    The map is a view of the sequence, so its channels are last in memory, and so they are in all convolutions and norms
    behind it. On a CPU an image then decodes to the same pixels in a batch of any size. With the channels of a map one
    after the other, PSNR of an evaluation changes with the size of the batches in its seventh digit. (The group norm of
    torch is more exact there: LlamaGen's VQ-8 decoder with random weights is off by 2.2e-6 of the largest value, and
    by 7.3e-6 here, in the same time.)

    Raises:
        ValueError: If a side is not a positive multiple of ``factor``, or the sequence does not fill the grid.
    """
    rows, columns = grid_size(size, factor)
    if sequence.shape[1] != rows * columns:
        raise ValueError(
            f"latents must be {rows * columns} ({rows} x {columns}) to fill an image of {size[0]} x {size[1]}, "
            f"got {sequence.shape[1]}"
        )
    return rearrange(sequence, "b (h w) d -> b d h w", h=rows)
