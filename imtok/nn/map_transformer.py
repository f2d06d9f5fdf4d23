"""Transformer blocks in the middle of a convolutional net (UniWeTok, arXiv 2602.14178)."""

from typing import Literal, get_args

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from imtok.nn.positions import Grid
from imtok.nn.transformer import BlockStyle, Transformer

Stretch = Literal["ends", "last"]

_SIDE = 8  # positions of a map at the size that the published net is trained on first
_MULTIPLE = 256  # that the hidden width of an MLP is rounded up to


class MapTransformer(nn.Module):
    """Register tokens and the positions of a map attend to each other, and the map comes back.

    Blocks have root-mean-square norms, SwiGLU and no biases. Rotations say where a position is: columns turn the first
    half of a head's channels and rows the second, and registers are not turned. Coordinates of maps of any size are
    stretched to those of 8 x 8 positions, whose centres are 0.5 to 7.5, plus 1.

    Args:
        channels: Channels of the map.
        depth: Number of blocks.
        heads: Attention heads of each.
        registers: Number of register tokens.
        stretch: "ends" = the first centre is 0.5 and the last 7.5, as in the public encoder; "last" = centres are
            multiplied so that the last is 7.5, as in the public decoder. A map of 8 x 8 has the same by both.

    Raises:
        ValueError: If there is no such ``stretch``, or the width of a head is no multiple of 4.

    Example:
        >>> MapTransformer(channels=32, depth=1, heads=2)(torch.randn(2, 32, 4, 6)).shape
        torch.Size([2, 32, 4, 6])
    """

    def __init__(self, channels: int, depth: int, heads: int, registers: int = 4, stretch: Stretch = "ends") -> None:
        super().__init__()
        if stretch not in get_args(Stretch):
            raise ValueError(f"stretch must be one of {', '.join(get_args(Stretch))}, got {stretch!r}")
        if heads < 1 or channels % (4 * heads):
            raise ValueError(f"channels must be a multiple of 4 heads ({4 * heads}), got {channels}")
        hidden = -(-(8 * channels // 3) // _MULTIPLE) * _MULTIPLE
        style = BlockStyle(norm="rms", eps=1e-6, mlp="swiglu", mlp_ratio=hidden / channels, bias=False)
        self.head_width = channels // heads
        self.stretch = stretch
        self.registers = nn.Parameter(torch.randn(registers, channels))
        self.blocks = Transformer(channels, depth, heads, style)

    @override
    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        rows, columns = features.shape[-2:]
        registers = self.registers.expand(features.shape[0], -1, -1)
        tokens = torch.cat([registers, rearrange(features, "b c h w -> b (h w) c")], 1)  # as precise as the registers
        tokens = self.blocks(tokens, rotation=self._rotation((rows, columns), features))
        return rearrange(tokens[:, self.registers.shape[0] :], "b (h w) c -> b c h w", h=rows)

    def _rotation(self, grid: Grid, like: Tensor) -> Float[Tensor, "n c"]:
        precise = torch.promote_types(like.dtype, torch.float32)
        exponents = torch.arange(self.head_width // 4, dtype=precise, device=like.device) / (self.head_width // 4)
        row, column = (self._centres(count, exponents) + 1 for count in grid)
        places = torch.stack(torch.meshgrid(column, row, indexing="xy"), -1).flatten(0, 1)
        angles = (places[..., None] / 10000.0**exponents).flatten(1)
        return F.pad(angles, (0, 0, self.registers.shape[0], 0))

    def _centres(self, count: int, like: Tensor) -> Float[Tensor, " n"]:
        numbers = torch.arange(count, dtype=like.dtype, device=like.device)
        if self.stretch == "ends":
            return numbers * ((_SIDE - 1) / max(count - 1, 1)) + 0.5
        return (numbers + 0.5) * ((_SIDE - 0.5) / (count - 0.5))
