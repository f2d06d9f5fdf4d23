"""How many tokens an image needs, predicted so that the prediction learns from what is made of the tokens (ALTo)."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from typing_extensions import override


class Chunk(NamedTuple):
    """The first tokens of each image.

    Attributes:
        present: 1 for the tokens that are taken and 0 for the others. Its gradient is that of the probability that a
            token is taken.
        length: How many are taken, from 1 to ``n``.
        share: The expected place of the last one, counted from 0, over ``n``.
    """

    present: Float[Tensor, "b n"]
    length: Int64[Tensor, " b"]
    share: Float[Tensor, " b"]


class LengthPredictor(nn.Module):
    """ALTo's length predictor and differentiable chunking (arXiv 2505.16495), as its public code has them.

    A query scores gated tokens; a softmax over the scores is the probability of each place to be the last one. Taken
    are the tokens up to the expected place, rounded up. A token is present with the probability that the last place is
    not before it: the choice is hard, and its gradient is that of this soft one.

    Args:
        width: Width of the tokens.

    Example:
        >>> predictor = LengthPredictor(16)
        >>> chunk = predictor(torch.randn(2, 8, 16), torch.randn(2, 16))
        >>> bool((chunk.present.sum(1) == chunk.length).all())
        True
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.value = nn.Linear(width, width)
        self.gate = nn.Linear(width, width)
        self.query = nn.Linear(width, width)

    @override
    def forward(self, tokens: Float[Tensor, "b n d"], query: Float[Tensor, "b d"]) -> Chunk:
        """Choose the first few of some tokens.

        Args:
            tokens: In their order.
            query: What asks how many are needed: the class token.
        """
        count, width = tokens.shape[1], tokens.shape[2]
        keys = self.value(tokens) * torch.sigmoid(self.gate(tokens))
        scores = (keys @ self.query(query)[..., None])[..., 0] * width**0.5
        last = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))
        places = torch.arange(count, device=tokens.device)
        share = (last * places / count).sum(-1)
        end = (share * count).clamp(0, count - 1).ceil().long()
        soft = 1 - torch.cat([torch.zeros_like(last[:, :1]), last[:, :-1].cumsum(-1)], 1)
        hard = (places <= end[:, None]).to(soft.dtype)
        return Chunk(hard + (soft - soft.detach()), end + 1, share)
