"""Q-Former: queries that gather from a memory (DETR, arXiv 2005.12872; BLIP-2, 2301.12597; GigaTok, 2504.08736)."""

from itertools import accumulate

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from typing_extensions import override

from imtok.nn.attention import Attention, Visible
from imtok.nn.initialization import start_weights
from imtok.nn.mlp import mlp


class QFormerBlock(nn.Module):
    """Queries attend to one another, then to the memory, then pass an MLP; each on normed queries and added to them.

    Positions are added to what is compared (queries and keys), in every block anew, never to what is carried on.

    Args:
        width: Width of queries and memory.
        heads: Attention heads.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.self_attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.cross_attention = Attention(width, heads)
        self.norm3 = nn.LayerNorm(width)
        self.mlp = mlp("gelu", width, 4 * width)

    @override
    def forward(
        self,
        queries: Float[Tensor, "b n d"],
        memory: Float[Tensor, "b m d"],
        query_positions: Float[Tensor, "n d"],
        memory_positions: Float[Tensor, "m d"],
        visible: Visible | None = None,
    ) -> Float[Tensor, "b n d"]:
        normed = self.norm1(queries)
        placed = normed + query_positions
        queries = queries + self.self_attention(placed, placed, normed)
        placed = self.norm2(queries) + query_positions
        queries = queries + self.cross_attention(placed, memory + memory_positions, memory, visible)
        return queries + self.mlp(self.norm3(queries))


class QFormer(nn.Module):
    """Blocks in a row over the same memory. A norm at the end is the caller's business.

    Args:
        width: Width of queries and memory.
        depth: Number of blocks.
        heads: Attention heads of each.
        checkpoint: Compute blocks again in the backward pass instead of keeping their activations.

    Example:
        >>> queries, memory = torch.randn(2, 5, 32), torch.randn(2, 9, 32)
        >>> qformer = QFormer(width=32, depth=2, heads=4)
        >>> qformer(queries, memory, torch.randn(5, 32), torch.randn(9, 32)).shape
        torch.Size([2, 5, 32])
    """

    def __init__(self, width: int, depth: int, heads: int, checkpoint: bool = False) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(QFormerBlock(width, heads) for _ in range(depth))
        self.checkpoint = checkpoint

    @override
    def forward(
        self,
        queries: Float[Tensor, "b n d"],
        memory: Float[Tensor, "b m d"],
        query_positions: Float[Tensor, "n d"],
        memory_positions: Float[Tensor, "m d"],
        present: Bool[Tensor, "b m"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        """Let the queries gather.

        Args:
            queries: What they start from.
            memory: What they gather from.
            query_positions: Where each query stands.
            memory_positions: Where each token of the memory stands.
            present: False where the memory has nothing to see; one True per row at least. None = all is there.
        """
        visible = None if present is None else repeat(present, "b m -> b n m", n=queries.shape[1])
        for block in self.blocks:
            if self.checkpoint and self.training:
                queries = checkpoint(
                    block, queries, memory, query_positions, memory_positions, visible, use_reentrant=False
                )
            else:
                queries = block(queries, memory, query_positions, memory_positions, visible)
        return queries


def pooled_queries(features: Float[Tensor, "b d h w"], count: int) -> Float[Tensor, "b n d"]:
    """Means of a map over ever finer grids: 1 x 1, 1 x 1, 1 x 2, 2 x 2, 2 x 4, ... positions, one grid after the other.

    Each grid doubles what there is so far, columns first, and so 256 of them end with 8 x 16 (GigaTok).

    Args:
        features: The map.
        count: How many means; those of the last grid that are too many are left out.

    Example:
        >>> pooled_queries(torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]]), 4).flatten().tolist()
        [1.5, 1.5, 1.0, 2.0]
    """
    grids = [(1, 1), *((2 ** (level // 2), 2 ** ((level + 1) // 2)) for level in range(count.bit_length()))]
    ends = accumulate(rows * columns for rows, columns in grids)
    needed = [grid for grid, end in zip(grids, ends, strict=True) if end - grid[0] * grid[1] < count]
    pooled = [rearrange(F.adaptive_avg_pool2d(features, grid), "b d h w -> b (h w) d") for grid in needed]
    return torch.cat(pooled, 1)[:, :count]


def draw_weights(part: nn.Module) -> None:
    """Draw weights as GigaTok does: truncated normal of deviation 0.02, biases zero, and query, key and value as one.

    Args:
        part: All its linear maps and convolutions are drawn anew.
    """
    start_weights(part, "normal")
    for module in part.modules():
        if isinstance(module, Attention):
            for linear in (module.query, module.key, module.value):  # one matrix of d x 3d in the published code
                nn.init.xavier_uniform_(linear.weight, gain=0.5**0.5)
