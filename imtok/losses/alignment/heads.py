"""Small nets that turn a tokenizer's features into what a teacher sees; they are trained and thrown away."""

from abc import ABC, abstractmethod
from itertools import pairwise

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.nn.transformer import Transformer


class Head(nn.Module, ABC):
    """Maps features of the tokenizer to the width of a teacher's.

    Attributes:
        in_dim: Width of the features that it takes.
        out_dim: Width of those that it gives.
        per_token: Whether it gives a feature for each that it takes, in the same order.
    """

    in_dim: int
    out_dim: int
    per_token: bool = True

    @abstractmethod
    def forward(
        self, features: Float[Tensor, "b n d"], keep: Bool[Tensor, "b n"] | None = None
    ) -> Float[Tensor, "b m k"]:
        """Map features; those that are not kept (False) influence no other."""


class MLPHead(Head):
    """The same net for each token: linear maps with SiLU in between, three for REPA (arXiv 2410.06940) and GigaTok.

    Args:
        in_dim: Width of the tokenizer's features.
        out_dim: Width of the teacher's.
        width: Width in between.
        layers: Number of linear maps; 1 = a single one.

    Raises:
        ValueError: If ``layers`` is below 1.

    Example:
        >>> MLPHead(in_dim=8, out_dim=16, width=32)(torch.randn(2, 5, 8)).shape
        torch.Size([2, 5, 16])
    """

    def __init__(self, in_dim: int, out_dim: int, width: int = 2048, layers: int = 3) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(f"layers must be at least 1, got {layers}")
        self.in_dim, self.out_dim = in_dim, out_dim
        widths = [in_dim, *[width] * (layers - 1), out_dim]
        maps: list[nn.Module] = []
        for before, after in pairwise(widths):
            maps += [nn.SiLU(), nn.Linear(before, after)]
        self.maps = nn.Sequential(*maps[1:])

    @override
    def forward(
        self, features: Float[Tensor, "b n d"], keep: Bool[Tensor, "b n"] | None = None
    ) -> Float[Tensor, "b m k"]:
        return self.maps(features)


class MeanHead(Head):
    """A layer norm of the mean of the tokens, and a linear map (UniTok, arXiv 2502.20321).

    Args:
        in_dim: Width of the tokenizer's features.
        out_dim: Width of the teacher's.

    Example:
        >>> MeanHead(in_dim=8, out_dim=16)(torch.randn(2, 5, 8)).shape
        torch.Size([2, 1, 16])
    """

    per_token = False

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.in_dim, self.out_dim = in_dim, out_dim
        self.norm = nn.LayerNorm(in_dim, eps=1e-6)
        self.out = nn.Linear(in_dim, out_dim)

    @override
    def forward(
        self, features: Float[Tensor, "b n d"], keep: Bool[Tensor, "b n"] | None = None
    ) -> Float[Tensor, "b 1 k"]:
        weights = features.new_ones(features.shape[:2]) if keep is None else keep.to(features.dtype)
        summed = (features * weights[..., None]).sum(1, keepdim=True)
        return self.out(self.norm(summed / weights.sum(1).clamp_min(1)[:, None, None]))


class TransformerHead(Head):
    """A transformer over the tokens; what it gives is read at the tokens, or at learned queries in front of them.

    With one query it sums an image up (the prediction head of FQGAN, arXiv 2411.16681); with one query per place of
    the teacher a sequence in any order predicts the teacher's map (Hita, arXiv 2507.02358); with none every token
    predicts its own place (TokenFlow, arXiv 2412.03069).

    Args:
        in_dim: Width of the tokenizer's features.
        out_dim: Width of the teacher's.
        tokens: The largest number of tokens, each of which has a learned position.
        queries: Learned queries; 0 = read at the tokens.
        width: Width of the transformer.
        depth: Its blocks.
        heads: Its attention heads.

    Raises:
        ValueError: If ``tokens`` or ``queries`` is out of range; in ``forward``, for too many tokens.

    Example:
        >>> TransformerHead(in_dim=8, out_dim=16, tokens=5, queries=1, width=32, depth=1, heads=2)(
        ...     torch.randn(2, 5, 8)
        ... ).shape
        torch.Size([2, 1, 16])
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        tokens: int,
        queries: int = 0,
        width: int = 1024,
        depth: int = 3,
        heads: int = 16,
    ) -> None:
        super().__init__()
        if tokens < 1 or queries < 0:
            raise ValueError(f"tokens must be at least 1 and queries not negative, got {tokens} and {queries}")
        self.in_dim, self.out_dim = in_dim, out_dim
        self.per_token = not queries
        self.embed = nn.Linear(in_dim, width)
        self.positions = nn.Parameter(torch.randn(tokens, width) * 0.02)
        self.queries = nn.Parameter(torch.randn(queries, width) * 0.02) if queries else None
        self.trunk = Transformer(width, depth, heads)
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, out_dim)

    @override
    def forward(
        self, features: Float[Tensor, "b n d"], keep: Bool[Tensor, "b n"] | None = None
    ) -> Float[Tensor, "b m k"]:
        number = features.shape[1]
        if number > len(self.positions):
            raise ValueError(f"head.tokens must be at least {number}, the number of tokens, got {len(self.positions)}")
        tokens = self.embed(features) + self.positions[:number]
        read = number
        if self.queries is not None:
            read = len(self.queries)
            tokens = torch.cat([repeat(self.queries, "q d -> b q d", b=len(features)), tokens], 1)
        visible = None
        if keep is not None:
            present = torch.cat([keep.new_ones(len(keep), tokens.shape[1] - number), keep], 1)
            itself = torch.eye(tokens.shape[1], dtype=torch.bool, device=keep.device)
            visible = rearrange(present, "b m -> b 1 m") | itself  # what sees nothing at all would become NaN
        return self.out(self.norm(self.trunk(tokens, visible)[:, :read]))
