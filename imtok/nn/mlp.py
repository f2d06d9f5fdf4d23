"""The token-wise half of a transformer block: plain, and gated (SwiGLU, GEGLU, arXiv 2002.05202)."""

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

MLPKind = Literal["gelu", "gelu_tanh", "quick_gelu", "swiglu", "swiglu_norm", "norm_geglu"]


class GatedMLP(nn.Module):
    """``out(bent(gate(x)) * value(x))``.

    Args:
        width: Width of input and output.
        hidden: Width in between.
        bias: Whether the maps have a bias.
        norm: What normalises the hidden channels before the last map; None = nothing does.
        bent: What makes a gate; None = SiLU.

    Example:
        >>> import torch
        >>> GatedMLP(width=8, hidden=16)(torch.randn(2, 5, 8)).shape
        torch.Size([2, 5, 8])
    """

    def __init__(
        self, width: int, hidden: int, bias: bool = True, norm: nn.Module | None = None, bent: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias=bias)
        self.bent = bent or nn.SiLU()
        self.value = nn.Linear(width, hidden, bias=bias)
        self.norm = norm or nn.Identity()
        self.out = nn.Linear(hidden, width, bias=bias)

    @override
    def forward(self, tokens: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        return self.out(self.norm(self.bent(self.gate(tokens)) * self.value(tokens)))


class QuickGELU(nn.Module):
    """``x sigmoid(1.702 x)``, which the CLIP of OpenAI has in place of GELU (arXiv 1606.08415)."""

    @override
    def forward(self, values: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        return values * torch.sigmoid(1.702 * values)


def mlp(kind: MLPKind, width: int, hidden: int, bias: bool = True, eps: float = 1e-5) -> nn.Module:
    """A token-wise network.

    Args:
        kind: "gelu" = linear, exact GELU, linear; "gelu_tanh" = GELU in its tanh approximation (DiT); "quick_gelu" =
            that of CLIP; "swiglu" = gated; "swiglu_norm" = gated, with a layer norm of the hidden channels (EVA-02);
            "norm_geglu" = a layer norm, then gated by GELU in its tanh approximation (UniTok).
        width: Width of input and output.
        hidden: Width in between.
        bias: Whether the maps have a bias.
        eps: Added to the variance in a norm.

    Raises:
        ValueError: If ``kind`` is none of these.
    """
    if kind in ("swiglu", "swiglu_norm"):
        return GatedMLP(width, hidden, bias, nn.LayerNorm(hidden, eps=eps) if kind == "swiglu_norm" else None)
    if kind == "norm_geglu":
        gated = GatedMLP(width, hidden, bias, bent=nn.GELU("tanh"))
        return nn.Sequential(nn.LayerNorm(width, eps=eps), gated)
    if kind in ("gelu", "gelu_tanh", "quick_gelu"):
        maps = nn.Linear(width, hidden, bias=bias), nn.Linear(hidden, width, bias=bias)
        bent = QuickGELU() if kind == "quick_gelu" else nn.GELU("tanh" if kind == "gelu_tanh" else "none")
        return nn.Sequential(maps[0], bent, maps[1])
    raise ValueError(f"mlp must be one of {', '.join(get_args(MLPKind))}, got {kind!r}")
