"""Estimators whose gradients go through an assignment to all codes (IBQ, arXiv 2412.02692; Gumbel, 1611.01144)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor
from typing_extensions import override

from imtok.quantizers.attended import attention_gradient
from imtok.quantizers.estimators import Chosen, Codes, Estimator, straight_through


def index_backpropagation(
    codes: Float[Tensor, "b n d"],
    queries: Float[Tensor, "b n e"],
    keys: Float[Tensor, "v e"],
    table: Float[Tensor, "v d"],
) -> Float[Tensor, "b n d"]:
    """``codes`` bit for bit, with their gradient and that of ``softmax(q k^T) sg E`` (IBQ, arXiv 2412.02692).

    NaN latents give NaN.
    """
    return codes + attention_gradient(queries, keys, table.detach(), None, None)[0]


def with_gumbel_noise(
    scores: Float[Tensor, "*shape v"], generator: torch.Generator | None
) -> Float[Tensor, "*shape v"]:
    """Scores whose greatest is drawn with the probabilities of their softmax."""
    return scores - torch.empty_like(scores).exponential_(generator=generator).log()  # -log of an exponential variable


def relaxed(codes: Float[Tensor, "*shape d"], assignment: Tensor, table: Float[Tensor, "v d"]) -> Tensor:
    """``codes`` bit for bit, with their gradient and that of the mean of ``sg E`` under an assignment ``*shape v``."""
    soft = assignment @ table.detach()
    return codes + (soft - soft.detach())


class _Soft(Estimator):
    """Gradients through an assignment to all codes, whose logits are ``-|z - e|^2 / temperature``."""

    moves_codes = soft = True

    def __init__(self, temperature: float = 0.03) -> None:
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        self.temperature = temperature

    def scores(
        self, latents: Float[Tensor, "b n d"], table: Float[Tensor, "v d"], of: Codes
    ) -> tuple[Float[Tensor, "b n e"], Float[Tensor, "v e"]]:
        """Queries and keys whose dot products are the logits, but for a number for each latent."""
        points, keys = of.compared(latents.flatten(0, 1), table)
        queries = F.pad(2 / self.temperature * points, (0, 1), value=1.0).view(*latents.shape[:2], -1)
        return queries, torch.cat([keys, -keys.square().sum(-1, keepdim=True) / self.temperature], -1)

    @override
    def passed(self, codes: Float[Tensor, "b n d"], latents: Float[Tensor, "b n d"], of: Codes) -> Tensor:
        return straight_through(codes, latents)


class Softmax(_Soft):
    """The nearest code, with its own gradient and that of :func:`index_backpropagation`: every code learns.

    Args:
        temperature: Of the softmax over negative squared distances, positive.
    """

    @override
    def __call__(
        self,
        latents: Float[Tensor, "b n d"],
        table: Float[Tensor, "v d"],
        of: Codes,
        ids: Int64[Tensor, "b n"] | None = None,
    ) -> Chosen:
        chosen = super().__call__(latents, table, of, ids)
        queries, keys = self.scores(latents, table, of)
        return Chosen(chosen.ids, chosen.codes, index_backpropagation(chosen.codes, queries, keys, table))


class GumbelSoftmax(_Soft):
    """A code drawn in training, nearer ones more often, with the gradient of a softmax (arXiv 1611.01144, 1611.00712).

    With Gumbel noise ``g``, the code of the greatest ``-|z - e|^2 / temperature + g`` goes on. Its row gets the
    decoder's gradient, and distances that of the softmax of these scores over ``relaxation``. Codebook and commitment
    losses are those of the nearest code, which no draw changes. Every token has a score for each code, so 2,048 tokens
    and 16,384 codes take 134 MB for each such table.

    Args:
        temperature: Of the draw, positive; near 0 it is certain.
        relaxation: Temperature of the softmax that gradients go through, positive.
    """

    draws = chooses = True

    def __init__(self, temperature: float = 0.01, relaxation: float = 1.0) -> None:
        super().__init__(temperature)
        if not relaxation > 0:
            raise ValueError(f"relaxation must be positive, got {relaxation}")
        self.relaxation = relaxation

    @override
    def __call__(
        self,
        latents: Float[Tensor, "b n d"],
        table: Float[Tensor, "v d"],
        of: Codes,
        ids: Int64[Tensor, "b n"] | None = None,
    ) -> Chosen:
        nearest = super().__call__(latents, table, of, ids)
        if not of.training:
            return nearest
        queries, keys = self.scores(latents, table, of)
        scores = with_gumbel_noise(queries @ keys.T, of.generator)
        drawn = scores.argmax(-1)
        codes = of.rows(drawn, table)
        return Chosen(drawn, nearest.codes, relaxed(codes, (scores / self.relaxation).softmax(-1), table))
