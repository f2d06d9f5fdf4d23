"""Deformable attention: queries read a few points of several maps, at places that they choose (arXiv 2010.04159)."""

import math
from collections.abc import Sequence

import torch
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override


class DeformableAttention(nn.Module):
    """Each head of a query reads ``points`` points of each map around the query's place, and weighs what it finds.

    A linear map of the query says how far from its place the points lie, in positions of the map, and another one, by a
    softmax over all points of all maps, how much each counts. Between the positions of a map values are interpolated
    linearly along both axes; around it they are zero. Places and weights are computed in at least float32.

    The points start on rays, one per head, the first at a distance of 1, the second of 2, and so on; all count alike.

    Args:
        width: Width of queries and maps.
        heads: Number of heads; divides ``width``.
        levels: Number of maps.
        points: Points that each head reads of each map.

    Raises:
        ValueError: If an argument is out of range; in ``forward``, if there are more or fewer maps.

    Example:
        >>> attention = DeformableAttention(width=32, heads=4, levels=2, points=3)
        >>> maps = [torch.randn(2, 32, 8, 8), torch.randn(2, 32, 4, 6)]
        >>> attention(torch.randn(2, 5, 32), torch.rand(5, 2), maps).shape
        torch.Size([2, 5, 32])
    """

    def __init__(self, width: int, heads: int, levels: int = 4, points: int = 4) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"heads must divide the width {width}, got {heads}")
        if levels < 1 or points < 1:
            raise ValueError(f"levels and points must be at least 1, got {levels} and {points}")
        self.heads, self.levels, self.points = heads, levels, points
        self.offsets = nn.Linear(width, heads * levels * points * 2)
        self.weights = nn.Linear(width, heads * levels * points)
        self.value = nn.Linear(width, width)
        self.project = nn.Linear(width, width)
        self._start()

    def _start(self) -> None:
        for part in (self.offsets, self.weights):
            nn.init.zeros_(part.weight)
            nn.init.zeros_(part.bias)
        for part in (self.value, self.project):
            nn.init.xavier_uniform_(part.weight)
            nn.init.zeros_(part.bias)
        angles = torch.arange(self.heads) * (2 * math.pi / self.heads)
        rays = torch.stack([angles.cos(), angles.sin()], -1)
        rays = rays / rays.abs().amax(-1, keepdim=True)  # to the edge of a square
        steps = torch.arange(1, self.points + 1)
        starts = rays[:, None, None] * steps[None, None, :, None]
        with torch.no_grad():
            self.offsets.bias.copy_(starts.expand(-1, self.levels, -1, -1).flatten())

    @override
    def forward(
        self,
        queries: Float[Tensor, "b n d"],
        places: Float[Tensor, "n 2"],
        maps: Sequence[Float[Tensor, "b d _ _"]],
    ) -> Float[Tensor, "b n d"]:
        """Let the queries read.

        Args:
            queries: Who reads.
            places: Of each query, from left to right and from top to bottom, both in [0, 1] on every map.
            maps: What is read, each of its own size.
        """
        if len(maps) != self.levels:
            raise ValueError(f"maps must be {self.levels}, as many as the attention was built for, got {len(maps)}")
        dtype = torch.promote_types(queries.dtype, torch.float32)
        shape = {"k": self.heads, "l": self.levels, "p": self.points}
        offsets = rearrange(self.offsets(queries).to(dtype), "b n (k l p xy) -> l (b k) n p xy", xy=2, **shape)
        scores = rearrange(self.weights(queries).to(dtype), "b n (k lp) -> (b k) n lp", k=self.heads)
        weights = rearrange(scores.softmax(-1), "bk n (l p) -> l bk 1 n p", l=self.levels)
        read = []
        for level, source in enumerate(maps):
            rows, columns = source.shape[-2:]
            values = rearrange(
                self.value(rearrange(source, "b d h w -> b h w d")), "b h w (k c) -> (b k) c h w", k=self.heads
            )
            size = offsets.new_tensor([columns, rows])
            # in grid_sample's measure the map lies in [-1, 1]
            grid = 2 * (places.to(dtype)[:, None] + offsets[level] / size) - 1
            found = F.grid_sample(values.to(dtype), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
            read.append(reduce(found * weights[level], "bk c n p -> bk c n", "sum"))
        together = rearrange(torch.stack(read).sum(0), "(b k) c n -> b n (k c)", k=self.heads)
        return self.project(together.to(queries.dtype))
