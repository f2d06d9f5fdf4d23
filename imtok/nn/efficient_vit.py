"""Linear attention and gated convolution of EfficientViT (arXiv 2205.14756), as in DC-AE (arXiv 2410.10733)."""

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from imtok.nn.exact import exact, exactly
from imtok.nn.norms import ChannelRMSNorm

_SMALL = 1e-15  # added to the sum of a query's weights, which may be zero


class LinearAttention(nn.Module):
    """Attention with weights ``relu(q) . relu(k)``, in time linear in the number of positions, added to the input.

    The sums over positions are computed in at least float32.

    Args:
        channels: Channels of input and output.
        head_width: Channels of a head.

    Raises:
        ValueError: If the channels are no multiple of ``head_width``.

    Example:
        >>> import torch
        >>> LinearAttention(64, head_width=32)(torch.randn(1, 64, 4, 6)).shape
        torch.Size([1, 64, 4, 6])
    """

    def __init__(self, channels: int, head_width: int = 32) -> None:
        super().__init__()
        if head_width < 1 or channels % head_width:
            raise ValueError(f"head_width must divide the {channels} channels, got {head_width}")
        self.heads = channels // head_width
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.project = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm = ChannelRMSNorm(channels)

    @override
    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        qkv = rearrange(self.qkv(features), "b (a three d) h w -> three b a (h w) d", three=3, a=self.heads)
        attended = rearrange(_attend(*qkv.unbind(0)), "b a (h w) d -> b (a d) h w", h=features.shape[-2])
        return features + self.norm(self.project(attended))


def _attend(
    query: Float[Tensor, "b a n d"], key: Float[Tensor, "b a n d"], value: Float[Tensor, "b a n d"]
) -> Float[Tensor, "b a n d"]:
    """Means of the values by the products of rectified queries and keys."""
    with exactly(query.device):
        query, key, value = exact(query).relu(), exact(key).relu(), exact(value)
        weighed = query @ (key.transpose(-1, -2) @ value)
        return weighed / (query @ key.sum(-2)[..., None] + _SMALL)


class GatedConvolution(nn.Module):
    """A 1 x 1 convolution to eight times the channels, 3 x 3 of each alone, and half of them gates the other half.

    Args:
        channels: Channels of input and output.

    Example:
        >>> import torch
        >>> GatedConvolution(16)(torch.randn(1, 16, 4, 6)).shape
        torch.Size([1, 16, 4, 6])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = 8 * channels
        self.widen = nn.Conv2d(channels, hidden, 1)
        self.each = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.project = nn.Conv2d(hidden // 2, channels, 1, bias=False)
        self.norm = ChannelRMSNorm(channels)

    @override
    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        value, gate = self.each(F.silu(self.widen(features))).chunk(2, dim=1)
        return features + self.norm(self.project(value * F.silu(gate)))
