"""The contract of classifiers of tokens, and the small vision transformer among them."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.nn.initialization import start_weights
from imtok.nn.visibility import hide_keys
from imtok.priors.trunk import Trunk


class TokenClassifier(nn.Module, ABC):
    """Says of vectors of tokens to which class an image belongs.

    Its builder tells it what it has arguments for: ``dim``, the width of the vectors, ``tokens``, the most that an
    image has, and ``classes``.
    """

    @abstractmethod
    def forward(self, vectors: Float[Tensor, "b n d"], seen: Bool[Tensor, "b n"]) -> Float[Tensor, "b k"]:
        """A logit for each class. What ``seen`` says is not there must change nothing."""


class TokenViT(TokenClassifier):
    """A vision transformer whose patches are tokens (SeiT, arXiv 2303.11114): a class token reads the others.

    Args:
        dim: Width of the vectors. Its builder says it, as the next two.
        tokens: The most that an image has.
        classes: How many there are.
        trunk: The blocks.

    Example:
        >>> net = TokenViT(dim=8, tokens=16, classes=10, trunk=Trunk(width=32, depth=1, heads=2))
        >>> net(torch.randn(2, 16, 8), torch.ones(2, 16, dtype=torch.bool)).shape
        torch.Size([2, 10])
    """

    def __init__(self, dim: int, tokens: int, classes: int, trunk: Trunk) -> None:
        super().__init__()
        self.trunk = trunk
        self.widen = nn.Linear(dim, trunk.width)
        self.positions = nn.Parameter(torch.zeros(tokens, trunk.width))
        self.class_token = nn.Parameter(torch.zeros(trunk.width))
        self.head = nn.Linear(trunk.width, classes)
        start_weights(self, "normal")
        nn.init.normal_(self.positions, std=0.02)
        nn.init.normal_(self.class_token, std=0.02)

    @override
    def forward(self, vectors: Float[Tensor, "b n d"], seen: Bool[Tensor, "b n"]) -> Float[Tensor, "b k"]:
        own = self.class_token.expand(len(vectors), 1, -1)
        sequence = torch.cat([own, self.widen(vectors) + self.positions], 1)
        if bool(seen.all()):
            return self.head(self.trunk(sequence)[:, 0])
        there = torch.cat([seen.new_ones(len(seen), 1), seen], 1)
        visible = hide_keys(None, there).expand(-1, there.shape[1], -1)
        return self.head(self.trunk(sequence, visible)[:, 0])
