"""IBQ: index back-propagation, where every code learns from every token (arXiv 2412.02692)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.quantizers.attended import attention_gradient
from imtok.quantizers.base import token_mean
from imtok.quantizers.entropy import EntropyWeights, entropy
from imtok.quantizers.search import most_similar
from imtok.quantizers.table import TableQuantizer
from imtok.types import Loss, Quantized


class IBQ(TableQuantizer):
    """The code with the greatest dot product; gradients go through the softmax over all codes.

    With ``s = softmax(z E^T)`` and ``h`` the one-hot of its maximum, ``q = (h + s - sg s) E``. That is
    ``E[k] + (A - sg A)`` with ``A`` the attention of z to the keys E and the values ``sg E``, of which only the
    gradient is computed, without a tokens x codes matrix. Losses, all means over tokens and channels, with
    ``q' = h E``::

        commit_soft = |q - z|^2     commit = |z - sg q'|^2     codebook = |q' - sg z|^2

    The paper's formula weights the last two 0.25 and 1, its code, which the presets follow, 1 and 0.25.

    Args:
        dim: Width of latents and codes.
        codebook_size: Number of codes.
        commit_soft_weight: Weight of the loss that moves z and all codes.
        commit_weight: Weight of the commitment loss.
        codebook_weight: Weight of the codebook loss.
        entropy_weight: Weight of the mean entropy of assignments minus the entropy of the mean assignment, in
            training only; 0 = off. Two weigh the first and the second.
        temperature: Softmax temperature of the assignments in the entropies; those of ``s`` have 1.

    Raises:
        ValueError: For a size, weight or temperature out of range.

    Example:
        >>> quantizer = IBQ(dim=8, codebook_size=64)
        >>> quantizer(torch.randn(2, 16, 8)).latents.sum().backward()
        >>> int(quantizer.weight.grad.abs().sum(-1).count_nonzero())
        64
    """

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        commit_soft_weight: float = 1.0,
        commit_weight: float = 1.0,
        codebook_weight: float = 0.25,
        entropy_weight: float | Sequence[float] = 0.05,
        temperature: float = 0.01,
    ) -> None:
        super().__init__(dim, codebook_size, (commit_soft_weight, commit_weight, codebook_weight))
        self.moves_codes = True
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        self.commit_soft_weight = commit_soft_weight
        self.commit_weight = commit_weight
        self.codebook_weight = codebook_weight
        self.entropy_weight = EntropyWeights.of(entropy_weight)
        self.temperature = temperature
        self.weight = nn.Parameter(torch.randn(codebook_size, dim))

    @override
    def quantize(self, latents: Float[Tensor, "b n d"], keep: Bool[Tensor, "b n"] | None) -> Quantized:
        table = self.table().to(latents.dtype)
        queries, keys = self.scored(latents, table)
        ids = most_similar(queries.flatten(0, 1), keys, keys.new_zeros(len(keys))).view(latents.shape[:2])
        hard = F.embedding(ids, table)
        temperature = self.temperature if self.training and self.entropy_weight else None
        attended, per_token, mean = attention_gradient(queries, keys, table.detach(), keep, temperature)
        codes = hard + attended
        losses = {
            "commit_soft": Loss(token_mean((codes - latents).square().mean(-1), keep), self.commit_soft_weight),
            "commit": Loss(token_mean((hard.detach() - latents).square().mean(-1), keep), self.commit_weight),
            "codebook": Loss(token_mean((hard - latents.detach()).square().mean(-1), keep), self.codebook_weight),
        }
        if temperature is not None:
            losses |= self.entropy_weight.losses(per_token, entropy(mean))
        return Quantized(codes, ids[..., None], losses=losses)

    @override
    def table(self) -> Float[Tensor, "v d"]:
        return self.weight

    def scored(
        self, latents: Float[Tensor, "b n d"], table: Float[Tensor, "v d"]
    ) -> tuple[Float[Tensor, "b n d2"], Float[Tensor, "v d2"]]:
        """Queries and keys, whose dot products choose the code of a latent: here the latents and the codes."""
        return latents, table
