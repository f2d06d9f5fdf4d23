"""Patches and positions of a vision transformer for other sizes than it was trained on."""

from functools import cache

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from imtok.nn.positions import Grid


def resize_positions(table: Float[Tensor, "n d"], grid: Grid) -> Float[Tensor, "m d"]:
    """Positions of a square grid for another grid, bicubic and blurred where it shrinks, as timm does it.

    Example:
        >>> resize_positions(torch.randn(4, 8), (3, 5)).shape
        torch.Size([15, 8])
    """
    side = int(len(table) ** 0.5)
    if (side, side) == grid:
        return table
    square = rearrange(table.float(), "(h w) d -> 1 d h w", h=side)
    resized = F.interpolate(square, size=grid, mode="bicubic", antialias=True)
    return rearrange(resized, "1 d h w -> (h w) d").to(table.dtype)


def squarest(count: int) -> Grid:
    """Rows and columns of so many places that are as many as can be.

    Example:
        >>> squarest(121), squarest(32)
        ((11, 11), (4, 8))
    """
    rows = next(rows for rows in range(int(count**0.5), 0, -1) if count % rows == 0)
    return rows, count // rows


def resize_patches(kernel: Float[Tensor, "d c p p"], side: int) -> Float[Tensor, "d c q q"]:
    """The kernel that makes of patches that were resized what ``kernel`` made of them before (arXiv 2212.08013).

    Example:
        >>> resize_patches(torch.randn(8, 3, 14, 14), 16).shape
        torch.Size([8, 3, 16, 16])
    """
    if kernel.shape[-1] == side:
        return kernel
    found = _inverse(kernel.shape[-1], side).to(kernel.device) @ rearrange(kernel.float(), "d c h w -> (h w) (d c)")
    return rearrange(found, "(h w) (d c) -> d c h w", h=side, c=kernel.shape[1]).to(kernel.dtype)


@cache
def _inverse(before: int, after: int) -> Float[Tensor, "m n"]:
    """The pseudo-inverse of the transposed matrix by which patches are resized."""
    basis = rearrange(torch.eye(before**2), "n (h w) -> n 1 h w", h=before)
    resized = F.interpolate(basis, size=(after, after), mode="bicubic", antialias=True, align_corners=False)
    return torch.linalg.pinv(rearrange(resized, "n 1 h w -> n (h w)"))
