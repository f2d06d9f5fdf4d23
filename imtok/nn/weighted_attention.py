"""Self-attention in which a token can stand for many tokens that are the same."""

from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from imtok.nn.attention import Memory, SelfAttention, Visible
from imtok.nn.positions import Rotation


class WeightedSelfAttention(SelfAttention):
    """Self-attention as if each token were there ``weights`` times, without computing it so often.

    A key that is there m times takes m times its share of a softmax, which is log m on its score.

    Args:
        See :class:`imtok.nn.attention.SelfAttention`.

    Example:
        >>> import torch
        >>> attention = WeightedSelfAttention(width=8, heads=2)
        >>> tokens = torch.randn(1, 3, 8)
        >>> often = attention(tokens[:, [0, 1, 2, 2, 2]])[:, :3]
        >>> torch.allclose(attention(tokens, weights=torch.tensor([1.0, 1.0, 3.0])), often, atol=1e-6)
        True
    """

    @override
    def forward(
        self,
        tokens: Float[Tensor, "b n d"],
        visible: Visible | None = None,
        rotation: Rotation | None = None,
        weights: Float[Tensor, " n"] | None = None,
        *,
        memory: Memory | None = None,
    ) -> Float[Tensor, "b n d"]:
        """Attend; ``weights`` None = once each. With weights, every token sees every other, and there is no memory.

        Raises:
            ValueError: If ``weights`` is given with ``visible`` or ``memory``.
        """
        if weights is None:
            return super().forward(tokens, visible, rotation, memory=memory)
        if visible is not None:
            raise ValueError("visible must be None where tokens are weighted, got a mask")
        if memory is not None:
            raise ValueError("memory must be None where tokens are weighted")
        query, key, value = self.projected(tokens, rotation)
        bias = rearrange(weights.log().to(query.dtype), "n -> 1 1 1 n")
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=self.scale)
        return self.project(rearrange(attended, "b k n c -> b n (k c)"))
