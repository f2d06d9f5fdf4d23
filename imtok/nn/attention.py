"""Multi-head attention (arXiv 1706.03762), by torch's ``scaled_dot_product_attention``."""

from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from imtok.nn.norms import TokenNorm, token_norm
from imtok.nn.positions import Rotation, rotate

Visible = Bool[Tensor, "n m"] | Bool[Tensor, "b n m"]
Scale = Literal["sqrt", "mup"]


class Memory:
    """Keys and values of the tokens that one attention layer has seen, for a sequence that comes bit by bit.

    Given to ``forward``, the tokens attend to what is in it and to themselves, and are added to it (a KV cache).
    """

    def __init__(self) -> None:
        self.key: Float[Tensor, "b k n c"] | None = None
        self.value: Float[Tensor, "b k n c"] | None = None

    def extend(
        self, key: Float[Tensor, "b k n c"], value: Float[Tensor, "b k n c"]
    ) -> tuple[Float[Tensor, "b k m c"], Float[Tensor, "b k m c"]]:
        """Add keys and values behind those that are there; returns all."""
        if self.key is not None and self.value is not None:
            key, value = torch.cat([self.key, key], 2), torch.cat([self.value, value], 2)
        self.key, self.value = key, value
        return key, value


class SelfAttention(nn.Module):
    """Every token attends to all tokens that it may see.

    Args:
        width: Width of the tokens.
        heads: Number of heads; divides ``width``.
        bias: Whether the projections have a bias.
        query_key_norm: Norm of queries and keys, per head; "none".
        scale: "sqrt" divides scores by the root of a head's width, "mup" multiplies them by 8 / width (FlexTok).
        key_bias: Whether keys have a bias where the projections have one; DINOv3 and EVA-02 have none.

    Raises:
        ValueError: If ``heads`` does not divide ``width``.

    Example:
        >>> import torch
        >>> SelfAttention(width=32, heads=4)(torch.randn(2, 5, 32)).shape
        torch.Size([2, 5, 32])
    """

    def __init__(
        self,
        width: int,
        heads: int,
        bias: bool = True,
        query_key_norm: TokenNorm = "none",
        scale: Scale = "sqrt",
        key_bias: bool = True,
    ) -> None:
        super().__init__()
        head_width = _head_width(width, heads)
        self.heads = heads
        self.scale = 8 / head_width if scale == "mup" else None
        self.query_key_value = nn.Linear(width, 3 * width, bias=bias and key_bias)
        self.query_value_bias = nn.Parameter(torch.zeros(2, width)) if bias and not key_bias else None
        self.query_norm = token_norm(query_key_norm, head_width)
        self.key_norm = token_norm(query_key_norm, head_width)
        self.project = nn.Linear(width, width, bias=bias)

    @override
    def forward(
        self,
        tokens: Float[Tensor, "b n d"],
        visible: Visible | None = None,
        rotation: Rotation | None = None,
        *,
        memory: Memory | None = None,
    ) -> Float[Tensor, "b n d"]:
        query, key, value = self.projected(tokens, rotation)
        if memory is not None:
            key, value = memory.extend(key, value)
        return self.project(_attend(query, key, value, visible, self.scale))

    def projected(
        self, tokens: Float[Tensor, "b n d"], rotation: Rotation | None
    ) -> tuple[Float[Tensor, "b k n e"], Float[Tensor, "b k n e"], Float[Tensor, "b k n e"]]:
        """Queries and keys, normed and turned, and values, by head."""
        fused = self.query_key_value(tokens)
        if self.query_value_bias is not None:
            query, value = self.query_value_bias
            fused = fused + torch.cat([query, torch.zeros_like(query), value])
        query, key, value = rearrange(fused, "b n (part k c) -> part b k n c", part=3, k=self.heads)
        query, key = self.query_norm(query), self.key_norm(key)
        if rotation is not None:
            query, key = rotate(query, rotation), rotate(key, rotation)
        return query, key, value


class Attention(nn.Module):
    """Queries attend to a memory; each of query, key and value is its own input.

    Args:
        width: Width of queries and memory.
        heads: Number of heads; divides ``width``.
        bias: Whether the projections have a bias.

    Raises:
        ValueError: If ``heads`` does not divide ``width``.

    Example:
        >>> import torch
        >>> queries, memory = torch.randn(2, 5, 32), torch.randn(2, 9, 32)
        >>> Attention(width=32, heads=4)(queries, memory, memory).shape
        torch.Size([2, 5, 32])
    """

    def __init__(self, width: int, heads: int, bias: bool = True) -> None:
        super().__init__()
        _head_width(width, heads)
        self.heads = heads
        self.query = nn.Linear(width, width, bias=bias)
        self.key = nn.Linear(width, width, bias=bias)
        self.value = nn.Linear(width, width, bias=bias)
        self.project = nn.Linear(width, width, bias=bias)

    @override
    def forward(
        self,
        query: Float[Tensor, "b n d"],
        key: Float[Tensor, "b m d"],
        value: Float[Tensor, "b m d"],
        visible: Visible | None = None,
    ) -> Float[Tensor, "b n d"]:
        query, key, value = (
            rearrange(projected, "b n (k c) -> b k n c", k=self.heads)
            for projected in (self.query(query), self.key(key), self.value(value))
        )
        return self.project(_attend(query, key, value, visible, None))


def _head_width(width: int, heads: int) -> int:
    if heads < 1 or width % heads:
        raise ValueError(f"heads must divide the width {width}, got {heads}")
    return width // heads


def _attend(
    query: Float[Tensor, "b k n c"],
    key: Float[Tensor, "b k m c"],
    value: Float[Tensor, "b k m c"],
    visible: Visible | None,
    scale: float | None,
) -> Float[Tensor, "b n d"]:
    mask = rearrange(visible, "b n m -> b 1 n m") if visible is not None and visible.ndim == 3 else visible
    attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
    return rearrange(attended, "b k n c -> b n (k c)")
