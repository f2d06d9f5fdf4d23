"""A causal transformer that begins with a token of its own, so that the first token of an image is predicted too."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.nn.gpt import GPT


class StartedGPT(nn.Module):
    """What is known of each token before it is read.

    Args:
        width: Width of the tokens.
        depth: Number of blocks.
        heads: Attention heads of each; divides ``width``.
        length: Most tokens of a sequence.
        dropout: Probability of everything that is dropped, in [0, 1).

    Example:
        >>> StartedGPT(width=32, depth=2, heads=4, length=5)(torch.randn(2, 5, 32)).shape
        torch.Size([2, 5, 32])
    """

    def __init__(self, width: int, depth: int, heads: int, length: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.begin = nn.Parameter(torch.randn(width) * 0.02)
        self.net = GPT(width, depth, heads, length, dropout)

    @override
    def forward(self, tokens: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        begin = self.begin.to(tokens.dtype).expand(len(tokens), 1, -1)
        return self.net(torch.cat([begin, tokens[:, :-1]], 1))
