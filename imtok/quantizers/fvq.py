"""FVQ: a codebook behind a small transformer, so that all codes learn in each step (arXiv 2509.10140)."""

import math

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.nn.norms import token_norm
from imtok.nn.patches import from_patches, to_patches
from imtok.nn.transformer import BlockStyle, Transformer
from imtok.quantizers.reparametrized import ReparametrizedVQ
from imtok.quantizers.table import Given

_EPS = 1e-6
_NEAR_ZERO = 1e-3  # of the range that the other layers start in


class VQBridge(nn.Module):
    """Makes a table of a table: compresses groups of codes to tokens, lets these talk, and recovers the codes.

    The codes fill a grid row by row, as square as it can be. A group is a square of ``patch_size`` x ``patch_size``
    codes. Tokens have no positions: a group differs from another one by its codes alone.

    Args:
        dim: Width of the codes.
        codebook_size: Number of codes, a multiple of ``patch_size**2``.
        patch_size: Side of a group.
        width: Width of the tokens.
        depth: Number of transformer blocks.
        heads: Attention heads of each.
        mlp_ratio: Hidden width of their MLPs over ``width``.

    Raises:
        ValueError: For a number below 1, codes that fill no groups, or heads that do not divide the width.

    Example:
        >>> VQBridge(dim=8, codebook_size=512, patch_size=4, width=16, depth=1, heads=2)(torch.randn(512, 8)).shape
        torch.Size([512, 8])
    """

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        patch_size: int = 4,
        width: int = 256,
        depth: int = 2,
        heads: int = 4,
        mlp_ratio: float = 2.0,
    ) -> None:
        super().__init__()
        if min(patch_size, width, depth) < 1 or mlp_ratio <= 0:
            raise ValueError(
                f"patch_size, width and depth must be at least 1 and mlp_ratio positive, got {patch_size}, {width}, "
                f"{depth} and {mlp_ratio}"
            )
        codes = patch_size**2
        groups, spare = divmod(codebook_size, codes)
        if spare or not groups:
            near = max(1, round(codebook_size / codes)) * codes
            raise ValueError(
                f"codebook_size must be a multiple of {codes}, so that its codes fill groups of {patch_size} x "
                f"{patch_size} (patch_size), got {codebook_size}; the nearest is {near}"
            )
        columns = next(side for side in range(math.isqrt(groups), 0, -1) if groups % side == 0)
        self.grid = (groups // columns, columns)
        self.patch_size = patch_size
        style = BlockStyle("layer_plain", _EPS, "gelu_tanh", mlp_ratio)
        self.compress = nn.Linear(codes * dim, width)
        self.process = Transformer(width, depth, heads, style)
        self.norm = token_norm("layer_plain", width, _EPS)
        self.recover = nn.Linear(width, codes * dim)
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.xavier_uniform_(part.weight, _NEAR_ZERO if part is self.recover else 1.0)
                nn.init.zeros_(part.bias)

    @override
    def forward(self, table: Float[Tensor, "v d"]) -> Float[Tensor, "v d"]:
        rows = self.grid[0] * self.patch_size
        codes = rearrange(table, "(h w) d -> 1 d h w", h=rows)
        tokens = self.process(self.compress(to_patches(codes, self.patch_size, "channel row column")))
        recovered = from_patches(self.recover(self.norm(tokens)), self.grid, self.patch_size)
        return rearrange(recovered, "1 d h w -> (h w) d")


class FVQ(ReparametrizedVQ):
    """The nearest of the codes that a :class:`VQBridge` makes of a learned table in each step.

    The bridge is there for training alone. :func:`imtok.export.fold.fold` gives the same codes as a plain table. Losses
    and the table in evaluation are those of :class:`~imtok.quantizers.reparametrized.ReparametrizedVQ`.

    The bridge is that of the authors' code with ViT blocks. Its last layer starts near zero, so that all codes lie
    close together at first. In that code it starts at zero: all codes are equal, and nothing before it learns in the
    first step.

    Args:
        dim: Width of latents and codes.
        codebook_size: Number of codes, a multiple of ``patch_size**2``.
        patch_size: Side of a group of codes.
        width: Width of the bridge's tokens, one for each group.
        depth: Number of its transformer blocks.
        heads: Attention heads of each.
        mlp_ratio: Hidden width of their MLPs over ``width``.
        codebook_weight: Weight of the codebook loss.
        commit_weight: Weight of the commitment loss.
        estimator: Gradient past the choice of a code (:func:`imtok.quantizers.table.find_estimator`).

    Raises:
        ValueError: For a size or weight out of range, codes that fill no groups, or an unknown estimator.

    Example:
        >>> quantizer = FVQ(dim=8, codebook_size=64, patch_size=2, width=16)
        >>> quantizer(torch.randn(1, 1, 8)).losses["codebook"].value.backward()
        >>> int(quantizer.weight.grad.abs().sum(-1).count_nonzero())
        64
    """

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        patch_size: int = 4,
        width: int = 256,
        depth: int = 2,
        heads: int = 4,
        mlp_ratio: float = 2.0,
        codebook_weight: float = 1.0,
        commit_weight: float = 0.25,
        estimator: Given = "straight_through",
    ) -> None:
        super().__init__(dim, codebook_size, codebook_weight, commit_weight, estimator)
        self.weight = nn.Parameter(torch.empty(codebook_size, dim).uniform_(-1 / codebook_size, 1 / codebook_size))
        self.bridge = VQBridge(dim, codebook_size, patch_size, width, depth, heads, mlp_ratio)

    @override
    def made(self) -> Float[Tensor, "v d"]:
        return self.bridge(self.weight)
