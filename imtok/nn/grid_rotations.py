"""How DINOv3 (arXiv 2508.10104) and EVA-02 (arXiv 2303.11331) turn the channels of a patch by its place.

Their wavelengths are rounded to single precision, as published weights were trained with.
"""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from imtok.nn.positions import Grid

Rotary = Literal["none", "dinov3", "eva"]


def grid_rotations(
    kind: Rotary, grid: Grid, head_width: int, trained: Grid, prefix: int, like: Tensor
) -> Float[Tensor, "n c"] | None:
    """Angles for :func:`imtok.nn.positions.rotate`: rows turn the first half of a head's channels, columns the second.

    Args:
        kind: "dinov3" = coordinates from -1 to 1, whatever the grid; "eva" = whole numbers, stretched to those of the
            grid that the weights were trained on; "none" = nothing is turned.
        grid: Rows and columns of patches.
        head_width: Channels of a head, a multiple of 4.
        trained: Rows and columns of patches that "eva" stretches to.
        prefix: Tokens before the patches, which are not turned.
        like: A tensor as precise, and on the device, as the tokens are.

    Raises:
        ValueError: If ``head_width`` is no multiple of 4.
    """
    if kind == "none":
        return None
    if head_width % 4:
        raise ValueError(f"width / heads must be a multiple of 4 for rotary positions, got {head_width}")
    exponents = torch.arange(head_width // 4, dtype=torch.float32, device=like.device) / (head_width // 4)
    if kind == "eva":
        frequencies = 1 / 10000.0**exponents
        axes = [
            torch.arange(count, dtype=torch.float32, device=like.device) / count * reference
            for count, reference in zip(grid, trained, strict=True)
        ]
        angles = _outer(axes) * frequencies
    else:
        precise = torch.promote_types(like.dtype, torch.float32)
        periods = (100.0**exponents).to(precise)
        axes = [2 * (torch.arange(0.5, count, device=like.device) / count) - 1 for count in grid]
        angles = 2 * math.pi * _outer(axes).to(precise) / periods
    return F.pad(angles.flatten(1), (0, 0, prefix, 0))


def _outer(axes: list[Tensor]) -> Float[Tensor, "n 2 1"]:
    return torch.cartesian_prod(*axes)[..., None]
