"""A layer of attention between a net and its codes (UniTok, arXiv 2502.20321, and DualToken, arXiv 2503.14324)."""

import torch
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from imtok.nn.exact import exactly


class AttentionProjection(nn.Module):
    """Tokens of one width become tokens of another: a linear map beside attention, then a gated MLP added to both.

    Heads are as wide as the narrower side. Towards codes the mean over the heads is what attention gives, away from
    them all heads stand side by side. Keys have no bias. Autocast is off in it, as in the public code of UniTok.

    Args:
        in_dim: Width of the tokens.
        out_dim: Width that they get.
        causal: Whether a token sees itself and those before it alone.
        mlp_ratio: Hidden width of the MLP over ``out_dim``.

    Raises:
        ValueError: If a width is not positive.

    Example:
        >>> AttentionProjection(64, 16)(torch.randn(2, 5, 64)).shape
        torch.Size([2, 5, 16])
    """

    def __init__(self, in_dim: int, out_dim: int, causal: bool = False, mlp_ratio: int = 2) -> None:
        super().__init__()
        if min(in_dim, out_dim) < 1:
            raise ValueError(f"in_dim and out_dim must be positive, got {in_dim} and {out_dim}")
        self.narrows, self.causal = in_dim > out_dim, causal
        self.head_width = min(in_dim, out_dim)
        self.heads = max(in_dim, out_dim) // self.head_width
        attended, hidden = self.heads * self.head_width, out_dim * mlp_ratio
        self.norm_shortcut, self.norm_attention, self.norm_mlp = (
            nn.LayerNorm(dim) for dim in (in_dim, in_dim, out_dim)
        )
        self.shortcut = nn.Linear(in_dim, out_dim)
        self.query_key_value = nn.Linear(in_dim, 3 * attended, bias=False)
        self.query_value_bias = nn.Parameter(torch.zeros(2, attended))
        self.project = nn.Linear(out_dim if self.narrows else attended, out_dim)
        self.norm_gate = nn.LayerNorm(out_dim, eps=1e-6)  # the published layer has two norms in a row
        self.gate, self.value = nn.Linear(out_dim, hidden), nn.Linear(out_dim, hidden)
        self.out = nn.Linear(hidden, out_dim)

    @override
    def forward(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b n e"]:
        with exactly(tokens.device):
            tokens = tokens.to(torch.promote_types(tokens.dtype, self.shortcut.weight.dtype))
            found = self.shortcut(self.norm_shortcut(tokens)) + self._attended(self.norm_attention(tokens))
            inner = self.norm_gate(self.norm_mlp(found))
            return found + self.out(F.gelu(self.gate(inner), approximate="tanh") * self.value(inner))

    def _attended(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b n e"]:
        query, value = self.query_value_bias
        fused = self.query_key_value(tokens) + torch.cat([query, torch.zeros_like(query), value])
        parts = rearrange(fused, "b n (part k c) -> part b k n c", part=3, k=self.heads)
        seen = F.scaled_dot_product_attention(*parts, is_causal=self.causal)
        if self.narrows:
            return self.project(reduce(seen, "b k n c -> b n c", "mean"))
        return self.project(rearrange(seen, "b k n c -> b n (k c)"))
