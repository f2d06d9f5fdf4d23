"""The token-wise half of a transformer block: plain, and gated (SwiGLU, arXiv 2002.05202)."""

from typing import Literal, get_args

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

MLPKind = Literal["gelu", "swiglu"]


class GatedMLP(nn.Module):
    """``out(silu(gate(x)) * value(x))``.

    Args:
        width: Width of input and output.
        hidden: Width in between.
        bias: Whether the maps have a bias.

    Example:
        >>> import torch
        >>> GatedMLP(width=8, hidden=16)(torch.randn(2, 5, 8)).shape
        torch.Size([2, 5, 8])
    """

    def __init__(self, width: int, hidden: int, bias: bool = True) -> None:
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias=bias)
        self.value = nn.Linear(width, hidden, bias=bias)
        self.out = nn.Linear(hidden, width, bias=bias)

    @override
    def forward(self, tokens: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        return self.out(F.silu(self.gate(tokens)) * self.value(tokens))


def mlp(kind: MLPKind, width: int, hidden: int, bias: bool = True) -> nn.Module:
    """A token-wise network.

    Args:
        kind: "gelu" = linear, exact GELU, linear; "swiglu" = gated.
        width: Width of input and output.
        hidden: Width in between.
        bias: Whether the maps have a bias.

    Raises:
        ValueError: If ``kind`` is none of these.
    """
    if kind == "gelu":
        return nn.Sequential(nn.Linear(width, hidden, bias=bias), nn.GELU(), nn.Linear(hidden, width, bias=bias))
    if kind == "swiglu":
        return GatedMLP(width, hidden, bias)
    raise ValueError(f"mlp must be one of {', '.join(get_args(MLPKind))}, got {kind!r}")
