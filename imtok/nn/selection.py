"""Select the patches that become tokens, and merge the other patches into them (LaVIT, arXiv 2309.04669)."""

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from imtok.nn.initialization import start_weights
from imtok.nn.mlp import mlp

SMALL = 1e-6  # shared by all keys, so that a token that may see nothing still attends, and gradients stay finite
EPS = 1e-5


class TokenSelector(nn.Module):
    """LaVIT's selector: the probability that a token is kept, from the token and the mean of all tokens.

    Args:
        width: Width of the tokens, a multiple of 4.

    Example:
        >>> chances = TokenSelector(16)(torch.randn(2, 9, 16))
        >>> chances.shape, torch.allclose(chances.exp().sum(-1), torch.ones(2, 9), atol=1e-5)
        (torch.Size([2, 9, 2]), True)
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        if width % 4:
            raise ValueError(f"width must be a multiple of 4 to select tokens, got {width}")
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.embed = nn.Linear(width, width)
        self.score = nn.Sequential(
            nn.Linear(width, width // 2),
            nn.GELU(),
            nn.Linear(width // 2, width // 4),
            nn.GELU(),
            nn.Linear(width // 4, 2),
        )
        start_weights(self, "normal")

    @override
    def forward(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b n 2"]:
        """The logarithms of the probabilities that a token is kept and that it is dropped."""
        own, whole = F.gelu(self.embed(self.norm(tokens))).chunk(2, -1)
        seen = torch.cat([own, whole.mean(1, keepdim=True).expand_as(own)], -1)
        return self.score(seen).log_softmax(-1)


def choose(chances: Float[Tensor, "b n 2"], drawn: bool) -> Float[Tensor, "b n"]:
    """Choose tokens: 1 for kept ones, at least one per image, and 0 for others, with the gradient of a soft choice.

    Args:
        chances: The output of :class:`TokenSelector`.
        drawn: Whether tokens are drawn with their probabilities (Gumbel-softmax), as in training. Otherwise those with
            the highest probabilities are taken, as many as would be drawn on average.
    """
    if not drawn:
        expected = chances[..., 0].exp().sum(-1).round().long().clamp(1, chances.shape[1])
        return best(chances, expected)
    soft = F.gumbel_softmax(chances, hard=False)[..., 0]
    first = (torch.arange(soft.shape[-1], device=soft.device) == 0).to(soft.dtype)
    hard = (soft > 0.5).to(soft.dtype)
    hard = torch.where(hard.sum(-1, keepdim=True) > 0, hard, first)
    return hard + (soft - soft.detach())


def best(chances: Float[Tensor, "b n 2"], numbers: Int64[Tensor, " b"]) -> Float[Tensor, "b n"]:
    """1 for the given number of tokens of each image with the highest probabilities, and 0 for the others."""
    ranks = chances[..., 0].argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    return (ranks < numbers[:, None]).to(chances.dtype)


def kept_first(tokens: Float[Tensor, "b n d"], keep: Bool[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
    """Tokens in a new order: the kept ones first, and both groups in their old order."""
    order = (~keep).to(torch.uint8).argsort(dim=1, stable=True)
    return tokens.gather(1, repeat(order, "b n -> b n d", d=tokens.shape[-1]))


class PolicyAttention(nn.Module):
    """Attention in which a policy weighs each key with a factor from 0 to 1 (DynamicViT).

    Args:
        width: Width of queries and memory.
        heads: Number of heads; divides ``width``.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"heads must divide the width {width}, got {heads}")
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.project = nn.Linear(width, width)

    @override
    def forward(
        self, tokens: Float[Tensor, "b n d"], memory: Float[Tensor, "b m d"], policy: Float[Tensor, "b n m"]
    ) -> Float[Tensor, "b n d"]:
        """Attend; ``policy`` is the factor of each key for each query."""
        query, key, value = (
            rearrange(projected, "b n (k c) -> b k n c", k=self.heads)
            for projected in (self.query(tokens), self.key(memory), self.value(memory))
        )
        scores = query @ key.mT * query.shape[-1] ** -0.5
        scores = scores - scores.amax(-1, keepdim=True)
        shares = scores.to(torch.promote_types(scores.dtype, torch.float32)).exp() * policy[:, None]
        shares = (shares + SMALL / shares.shape[-1]) / (shares.sum(-1, keepdim=True) + SMALL)
        return self.project(rearrange(shares.to(value.dtype) @ value, "b k n c -> b n (k c)"))


class MergerBlock(nn.Module):
    """Kept tokens attend to the kept ones before them, then to the dropped ones as they came in, then pass an MLP.

    Args:
        width: Width of the tokens.
        heads: Attention heads.
        mlp_ratio: Width of the hidden layer, as a multiple of the tokens' width.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width, eps=EPS) for _ in range(3))
        self.causal = PolicyAttention(width, heads)
        self.cross = PolicyAttention(width, heads)
        self.mlp = mlp("gelu", width, int(width * mlp_ratio))

    @override
    def forward(
        self, tokens: Float[Tensor, "b n d"], dropped: Float[Tensor, "b n d"], kept: Float[Tensor, "b n"]
    ) -> Float[Tensor, "b n d"]:
        count = tokens.shape[1]
        own = torch.eye(count, dtype=kept.dtype, device=kept.device)
        before = torch.ones_like(own).tril()
        columns = rearrange(kept, "b m -> b 1 m")
        normed = self.norm1(tokens)
        tokens = tokens + self.causal(normed, normed, (columns + (1 - columns) * own) * before)
        tokens = tokens + self.cross(self.norm2(tokens), dropped, (1 - columns).expand(-1, count, -1))
        return tokens + self.mlp(self.norm3(tokens))


class TokenMerger(nn.Module):
    """LaVIT's merger, as in its public code: it adds the content of dropped tokens to the kept ones.

    Args:
        width: Width of the tokens.
        depth: Number of blocks.
        heads: Attention heads of each.
        mlp_ratio: Width of the hidden layers, as a multiple of the tokens' width.

    Example:
        >>> merger = TokenMerger(16, depth=1, heads=2)
        >>> tokens, kept = torch.randn(1, 4, 16), torch.tensor([[1.0, 0.0, 1.0, 0.0]])
        >>> merger(tokens, kept).shape
        torch.Size([1, 4, 16])
    """

    def __init__(self, width: int, depth: int, heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.norm_in = nn.LayerNorm(width, eps=EPS)
        self.blocks = nn.ModuleList(MergerBlock(width, heads, mlp_ratio) for _ in range(depth))
        self.norm_out = nn.LayerNorm(width, eps=EPS)
        start_weights(self, "normal")

    @override
    def forward(self, tokens: Float[Tensor, "b n d"], kept: Float[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        """Merge; only the kept tokens of the result are meaningful.

        Args:
            tokens: All tokens, in order.
            kept: 1 for kept tokens, 0 for the others.
        """
        dropped = self.norm_in(tokens)
        for block in self.blocks:
            tokens = block(tokens, dropped, kept)
        return self.norm_out(tokens)
