"""A causal transformer with dropout, as GPT has it (minGPT's blocks), on vectors instead of ids."""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from imtok.nn.attention import SelfAttention
from imtok.nn.initialization import start_weights


class GPT(nn.Module):
    """Pre-norm blocks in a row, in which every token sees itself and those before it; learned positions, a last norm.

    Beside :class:`imtok.nn.transformer.Transformer` it has what a language model has: dropout of attention weights and
    of what each layer adds.

    Args:
        width: Width of the tokens.
        depth: Number of blocks.
        heads: Attention heads of each; divides ``width``.
        length: Most tokens of a sequence.
        dropout: Probability of everything that is dropped, in [0, 1).

    Raises:
        ValueError: If a size or the dropout is out of range.

    Example:
        >>> GPT(width=32, depth=2, heads=4, length=9)(torch.randn(2, 5, 32)).shape
        torch.Size([2, 5, 32])
    """

    def __init__(self, width: int, depth: int, heads: int, length: int, dropout: float = 0.0) -> None:
        super().__init__()
        if min(width, depth, length) < 1 or not 0 <= dropout < 1:
            raise ValueError(
                f"width, depth and length must be at least 1 and dropout in [0, 1), got {width}, {depth}, {length} and "
                f"{dropout}"
            )
        self.positions = nn.Parameter(torch.randn(length, width) * 0.02)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*(_Block(width, heads, dropout) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        start_weights(self, "xavier")

    @override
    def forward(self, tokens: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """What is known at each token of it and of those before it.

        Raises:
            ValueError: If there are more tokens than positions.
        """
        if tokens.shape[1] > len(self.positions):
            raise ValueError(f"tokens must be at most {len(self.positions)}, got {tokens.shape[1]}")
        tokens = self.dropout(tokens + self.positions[: tokens.shape[1]])
        return self.norm(self.blocks(tokens))


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = _CausalAttention(width, heads, dropout)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(dropout)
        )

    @override
    def forward(self, tokens: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        tokens = tokens + self.attention(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class _CausalAttention(SelfAttention):
    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__(width, heads)
        self.dropout = nn.Dropout(dropout)

    @override
    def forward(self, tokens: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:  # type: ignore[override]
        query, key, value = self.projected(tokens, None)
        dropped = self.dropout.p if self.training else 0.0
        attended = F.scaled_dot_product_attention(query, key, value, dropout_p=dropped, is_causal=True)
        return self.dropout(self.project(rearrange(attended, "b k n c -> b n (k c)")))
