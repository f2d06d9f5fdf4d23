"""Rotary positions of latents followed by a grid, on three axes (Flux; Instella-T2I, arXiv 2506.21022)."""

from typing import Literal, cast, get_args

import torch
from einops import repeat
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from imtok.nn.attention import SelfAttention
from imtok.nn.positions import Grid, Rotation, rotations
from imtok.nn.transformer import BlockStyle, Transformer
from imtok.nn.weighted_attention import WeightedSelfAttention

Rotary = Literal["pairs", "published"]
GridScale = Literal["extrapolated", "interpolated"]


def axis_widths(head_width: int) -> list[int]:
    """Channels of a head that turn with the index of a latent, the row and the column: 8, 28 and 28 of 64.

    Raises:
        ValueError: If the head has no even number of channels for each axis.
    """
    if head_width % 2 or head_width < 6:
        raise ValueError(f"width / heads must be even and at least 6 for rotary positions, got {head_width}")
    index = max(2, 2 * round(head_width / 16))
    row = 2 * ((head_width - index) // 4)
    return [index, row, head_width - index - row]


def check_scale(positions: GridScale) -> None:
    """Raise ValueError unless it is a way to give coordinates to a grid of another size."""
    if positions not in get_args(GridScale):
        raise ValueError(f"positions must be one of {', '.join(get_args(GridScale))}, got {positions!r}")


def segment_rotation(latents: int, grid: Grid, span: Grid, head_width: int, like: Tensor) -> Float[Tensor, "n c"]:
    """Angles of ``latents`` at (index, 0, 0), then of a grid at (0, row, column), row by row.

    Args:
        latents: Number of latents.
        grid: Rows and columns.
        span: Rows and columns whose coordinates the grid is stretched over; the grid itself = plain indices.
        head_width: Channels of a head.
        like: A tensor whose device counts, and its type: angles are float64 for float64 and else float32.
    """
    index = torch.arange(latents, dtype=torch.float64, device=like.device)
    rows, columns = (
        torch.arange(count, dtype=torch.float64, device=like.device) * ((most - 1) / max(count - 1, 1))
        for count, most in zip(grid, span, strict=True)
    )
    coordinates = torch.cat([F.pad(index[:, None], (0, 2)), F.pad(torch.cartesian_prod(rows, columns), (1, 0))])
    angles = rotations(coordinates, axis_widths(head_width))
    return angles if like.dtype == torch.float64 else angles.float()


class ExactRMSNorm(nn.RMSNorm):
    """RMS norm in the type of its weight, whatever autocast made of the input; the result has the input's type."""

    @override
    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        return super().forward(x.to(self.weight.dtype)).to(x.dtype)


class HalvesAttention(WeightedSelfAttention):
    """Self-attention that turns queries and keys as Instella-T2I's public weights were trained.

    That code pairs channel ``i`` with ``i + width / 2``, but takes the angles in the order of neighbouring pairs. So
    the two channels of a pair have different angles, and scores depend on more than the distance of two tokens.
    """

    @override
    def projected(
        self, tokens: Float[Tensor, "b n d"], rotation: Rotation | None
    ) -> tuple[Float[Tensor, "b k n e"], Float[Tensor, "b k n e"], Float[Tensor, "b k n e"]]:
        query, key, value = super().projected(tokens, None)
        if rotation is not None:
            query, key = (_turn_halves(heads, rotation) for heads in (query, key))
        return query, key, value


def rotary_trunk(width: int, depth: int, heads: int, rotary: Rotary, checkpoint: bool) -> Transformer:
    """Blocks of Instella-T2I: RMS norms, also of queries and keys, gated MLPs of 4 times the width, no biases.

    Args:
        width: Width of the tokens.
        depth: Number of blocks.
        heads: Attention heads of each.
        rotary: "pairs" turns neighbouring channels (RoPE); "published" is :class:`HalvesAttention`.
        checkpoint: Compute blocks again in the backward pass instead of keeping their activations.

    Raises:
        ValueError: If ``rotary`` is neither, or heads are too narrow for three axes.
    """
    if rotary not in get_args(Rotary):
        raise ValueError(f"rotary must be one of {', '.join(get_args(Rotary))}, got {rotary!r}")
    style = BlockStyle(norm="rms", eps=1e-6, mlp="swiglu", bias=False, query_key_norm="rms")
    trunk = Transformer(width, depth, heads, style, checkpoint=checkpoint)
    axis_widths(width // heads)
    for block in trunk.blocks:
        if rotary == "published":
            block.attention = HalvesAttention(width, heads, bias=False, query_key_norm="rms")
        attention = cast(SelfAttention, block.attention)
        attention.query_norm = ExactRMSNorm(width // heads, style.eps)
        attention.key_norm = ExactRMSNorm(width // heads, style.eps)
    return trunk


def _turn_halves(heads: Float[Tensor, "b k n d"], rotation: Rotation) -> Float[Tensor, "b k n d"]:
    angles = repeat(rotation, "n c -> n (c two)", two=2)
    first, second = heads.to(angles.dtype).chunk(2, -1)
    crossed = torch.cat([-second, first], -1)
    return (heads * angles.cos() + crossed * angles.sin()).to(heads.dtype)
