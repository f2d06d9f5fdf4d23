"""Square patches of a map as tokens, and back."""

from typing import Literal

from einops import rearrange
from jaxtyping import Float
from torch import Tensor

PatchOrder = Literal["row column channel", "channel row column"]
_PATTERNS = {
    "row column channel": ("b c (h p) (w q)", "b (h w) (p q c)"),
    "channel row column": ("b c (h p) (w q)", "b (h w) (c p q)"),
}


def to_patches(
    features: Float[Tensor, "b c h w"], patch_size: int, order: PatchOrder = "row column channel"
) -> Float[Tensor, "b n d"]:
    """Cut a map into patches, row by row, each as one vector.

    Args:
        features: A map whose sides are multiples of ``patch_size``.
        patch_size: Side of a patch.
        order: What varies slowest to fastest inside a vector.

    Example:
        >>> import torch
        >>> to_patches(torch.rand(1, 3, 8, 16), patch_size=4).shape
        torch.Size([1, 8, 48])
    """
    whole, cut = _PATTERNS[order]
    return rearrange(features, f"{whole} -> {cut}", p=patch_size, q=patch_size)


def from_patches(
    patches: Float[Tensor, "b n d"], grid: tuple[int, int], patch_size: int, order: PatchOrder = "row column channel"
) -> Float[Tensor, "b c h w"]:
    """Put patches together again: the inverse of :func:`to_patches`.

    Args:
        patches: Row by row.
        grid: Rows and columns of patches.
        patch_size: Side of a patch.
        order: What varies slowest to fastest inside a vector.
    """
    whole, cut = _PATTERNS[order]
    return rearrange(patches, f"{cut} -> {whole}", h=grid[0], w=grid[1], p=patch_size, q=patch_size)
