"""Spherical Leech quantization: a fixed codebook that is as even as 196,560 points can be (arXiv 2512.14697)."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from typing_extensions import override

from imtok.quantizers.base import token_mean
from imtok.quantizers.leech_search import CODES, DIM, LeechSearch, minimal_vectors
from imtok.quantizers.sphere import unit_length
from imtok.quantizers.table import Given, TableQuantizer
from imtok.types import Loss, Quantized

_SCALE = 32**-0.5


class Leech(TableQuantizer):
    """Replaces each latent by the shortest vector of the Leech lattice with the smallest angle to it, at unit length.

    No two of the 196,560 codes of 24 channels are closer than 60 degrees, and no arrangement of more such points
    exists. So nothing about the codebook is learned, and no entropy term is needed for its use. The codes come from
    the extended Golay code whenever a quantizer is built; no checkpoint holds them. Their ids are the rows of
    :func:`imtok.quantizers.leech_search.minimal_vectors`, and of equal angles the lowest id is taken.

    ``commit = mean |z - e|^2`` over tokens and channels, with the latents at unit length.

    Args:
        commit_weight: Weight of the commitment loss; 0 as in the paper.
        estimator: Gradient past the choice of a code (:func:`imtok.quantizers.table.find_estimator`). ``softmax`` and
            ``gumbel_softmax`` score all codes.

    Raises:
        ValueError: If the weight is negative, or for an unknown estimator.

    Example:
        >>> quantizer = Leech()
        >>> quantized = quantizer(torch.randn(2, 16, 24))
        >>> quantizer.vocab_sizes, torch.equal(quantizer.decode(quantized.ids), quantized.latents)
        ((196560,), True)
    """

    vectors: Float[Tensor, "v d"]

    def __init__(self, commit_weight: float = 0.0, estimator: Given = "straight_through") -> None:
        super().__init__(DIM, CODES, (commit_weight,), estimator)
        self.commit_weight = commit_weight
        self.search = LeechSearch()
        self.register_buffer("vectors", torch.tensor(minimal_vectors(), dtype=torch.float32), persistent=False)

    @override
    def quantize(self, latents: Float[Tensor, "b n d"], keep: Bool[Tensor, "b n"] | None) -> Quantized:
        latents = unit_length(latents)
        table = self.table() if self.estimate.soft else self.vectors[:1]  # other estimators do not read it
        chosen = self.estimate(latents, table.to(latents.dtype), self)
        losses = {"commit": Loss(token_mean((chosen.codes - latents).square().mean(-1), keep), self.commit_weight)}
        return Quantized(chosen.latents, chosen.ids[..., None], losses=losses)

    @override
    def choose(self, latents: Float[Tensor, "m d"], table: Float[Tensor, "v d"]) -> Int64[Tensor, " m"]:
        return self.search(latents)

    @override
    def rows(self, ids: Int64[Tensor, "b n"], table: Float[Tensor, "v d"]) -> Float[Tensor, "b n d"]:
        return (F.embedding(ids, self.vectors) * _SCALE).to(table.dtype)  # the whole table is not scaled for a few rows

    @override
    def table(self) -> Float[Tensor, "v d"]:
        return self.vectors * _SCALE

    @override
    def decode(self, ids: Int64[Tensor, "b t g"], slots: int | None = None) -> Float[Tensor, "b n d"]:
        codes = self.rows(ids[..., 0], self.vectors)
        return codes if slots is None or slots > 0 else codes * 0
