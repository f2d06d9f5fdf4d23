"""The encoder of VFMTok (arXiv 2507.08441): queries gather from several depths of a frozen net, each where it looks."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.encoders.base import ImageEncoder
from imtok.encoders.pretrained_vit import PretrainedViTEncoder
from imtok.nn.attention import SelfAttention
from imtok.nn.deformable import DeformableAttention
from imtok.nn.grid import grid_size
from imtok.nn.positions import grid_coordinates
from imtok.nn.visibility import visibility


class RegionBlock(nn.Module):
    """Queries read the maps, then those before them, then pass an MLP; each is added to them, and the sum is normed.

    Args:
        width: Width of queries and maps.
        heads: Attention heads.
        levels: Number of maps.
        points: Points that a head reads of each map.
        hidden: Width of the MLP between its two linear maps.
    """

    def __init__(self, width: int, heads: int, levels: int, points: int, hidden: int) -> None:
        super().__init__()
        self.read = DeformableAttention(width, heads, levels, points)
        self.norm1 = nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))
        self.norm3 = nn.LayerNorm(width)

    @override
    def forward(
        self,
        queries: Float[Tensor, "b n d"],
        positions: Float[Tensor, "n d"],
        places: Float[Tensor, "n 2"],
        maps: Sequence[Float[Tensor, "b d _ _"]],
        visible: Bool[Tensor, "n n"],
    ) -> Float[Tensor, "b n d"]:
        queries = self.norm1(queries + self.read(queries + positions, places, maps))
        queries = self.norm2(queries + self.attention(queries + positions, visible))
        return self.norm3(queries + self.mlp(queries))


class RegionEncoder(ImageEncoder):
    """Learned queries stand on a grid, and read of each depth of a net the points around them that they choose.

    A query sees itself and those before it, row by row, and no other, since a generator is to learn the tokens in this
    order.

    Args:
        out_dim: Width of the latents; the builder sets it to the quantizer's.
        net: The frozen net; its ``layers`` are the depths that are read, and its latents are its features.
        grid: Queries along each side: the latents are its square, whatever the size of the image.
        width: Width of the queries.
        depth: Number of blocks.
        heads: Attention heads of each.
        points: Points that a head reads at each depth.
        hidden: Width of the MLPs between their linear maps.

    Raises:
        ValueError: If an argument is out of range, or ``net`` maps its features or reads no ``layers``; in ``forward``
            and ``num_latents``, for images that ``net`` refuses.

    Example:
        >>> net = PretrainedViTEncoder(None, 32, patch_size=8, factor=8, width=32, depth=2, heads=2, layers=(0, 1))
        >>> encoder = RegionEncoder(6, net, grid=3, width=16, depth=1, heads=2, hidden=32)
        >>> encoder(torch.rand(1, 3, 32, 32) * 2 - 1).values.shape
        torch.Size([1, 9, 6])
    """

    places: Tensor
    visible: Tensor

    def __init__(
        self,
        out_dim: int,
        net: PretrainedViTEncoder,
        grid: int = 16,
        width: int = 512,
        depth: int = 6,
        heads: int = 8,
        points: int = 4,
        hidden: int = 1024,
    ) -> None:
        super().__init__()
        if grid < 1:
            raise ValueError(f"grid must be at least 1, got {grid}")
        levels, seen = len(net.layers), net.net.width
        if not levels:
            raise ValueError("net.layers must name the blocks that are read, got none")
        if not isinstance(net.project, nn.Identity):
            raise ValueError("net.out_dim must be null: its features are read as they are")
        self.net = net
        self.levels = nn.ModuleList(
            nn.Sequential(
                nn.Linear(seen, width, bias=False),
                nn.LayerNorm(width),
                nn.ReLU(),
                nn.Linear(width, width, bias=False),
                nn.LayerNorm(width),
                nn.LayerNorm(width),  # the published net has two in a row
            )
            for _ in range(levels)
        )
        self.queries = nn.Parameter(torch.randn(grid**2, width) * width**-0.5)
        self.positions = nn.Parameter(torch.randn(grid**2, width) * width**-0.5)
        self.norm_in = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(RegionBlock(width, heads, levels, points, hidden) for _ in range(depth))
        self.project = nn.Linear(width, out_dim)
        places = (grid_coordinates((grid, grid)).flip(-1) + 0.5) / grid
        self.register_buffer("places", places, persistent=False)
        self.register_buffer("visible", visibility([grid**2], [["causal"]]), persistent=False)

    @classmethod
    def tell_parts(cls, provided: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """What the builder tells the net: to give its features as they are."""
        return {"net": {**provided, "out_dim": None}}

    @override
    def encode(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        rows, _ = grid_size((image.shape[-2], image.shape[-1]), self.net.factor)
        depths = self.net(image).values.chunk(len(self.levels), -1)
        maps = [
            rearrange(level(seen), "b (h w) d -> b d h w", h=rows)
            for level, seen in zip(self.levels, depths, strict=True)
        ]
        queries = repeat(self.norm_in(self.queries), "n d -> b n d", b=image.shape[0])
        for block in self.blocks:
            queries = block(queries, self.positions, self.places, maps, self.visible)
        return self.project(queries)

    @override
    def num_latents(self, size: tuple[int, int]) -> int:
        self.net.num_latents(size)
        return len(self.queries)
