"""Codes chosen by attention from latents to codes (CODA, arXiv 2503.17760)."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from imtok.nn.exact import exactly
from imtok.quantizers.ibq import IBQ


class AttentionVQ(IBQ):
    """Takes the code whose key has the largest dot product with the latent's query, and gives its value.

    Queries are linear maps of latents. Keys and values are linear maps of the table's rows. Queries and keys have a
    root mean square of one, times a learned scale. Their dot products are divided by the root of their width. Gradients
    and losses are those of :class:`~imtok.quantizers.ibq.IBQ`, with these scores in place of
    dot products of latents and codes.

    Args:
        dim: Width of latents and codes.
        codebook_size: Number of codes.
        attention_dim: Width of queries and keys.
        commit_soft_weight: Weight of the loss that moves the latent and all codes.
        commit_weight: Weight of the commitment loss.
        codebook_weight: Weight of the codebook loss.
        entropy_weight: Weight of the mean entropy of assignments minus the entropy of the mean assignment, in
            training only; 0 = off.
        temperature: Softmax temperature of the assignments in the entropies.

    Raises:
        ValueError: For a size, weight or temperature out of range.

    Example:
        >>> import torch
        >>> quantizer = AttentionVQ(dim=4, codebook_size=64, attention_dim=8)
        >>> quantizer(torch.randn(2, 16, 4)).latents.sum().backward()
        >>> bool(quantizer.to_query.weight.grad.any()), bool(quantizer.to_value.weight.grad.any())
        (True, True)
    """

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        attention_dim: int = 32,
        commit_soft_weight: float = 1.0,
        commit_weight: float = 1.0,
        codebook_weight: float = 0.05,
        entropy_weight: float = 0.05,
        temperature: float = 0.01,
    ) -> None:
        super().__init__(
            dim, codebook_size, commit_soft_weight, commit_weight, codebook_weight, entropy_weight, temperature
        )
        if attention_dim < 1:
            raise ValueError(f"attention_dim must be at least 1, got {attention_dim}")
        self.to_query, self.to_key = nn.Linear(dim, attention_dim), nn.Linear(dim, attention_dim)
        self.to_value = nn.Linear(dim, dim)
        self.norm_query, self.norm_key = (nn.RMSNorm(attention_dim, eps=1e-5) for _ in range(2))

    @override
    def table(self) -> Float[Tensor, "v d"]:
        with exactly(self.weight.device):
            return self.to_value(self.weight)

    @override
    def scored(
        self, latents: Float[Tensor, "b n d"], table: Float[Tensor, "v d"]
    ) -> tuple[Float[Tensor, "b n d2"], Float[Tensor, "v d2"]]:
        queries = _mapped(latents, self.to_query, self.norm_query)
        keys = _mapped(self.weight.to(latents.dtype), self.to_key, self.norm_key)
        return queries * queries.shape[-1] ** -0.5, keys


def _mapped(vectors: Float[Tensor, "*shape d"], linear: nn.Linear, norm: nn.RMSNorm) -> Float[Tensor, "*shape d2"]:
    """A linear map and a norm, as precise as the vectors."""
    weight, bias, scale = (value.to(vectors.dtype) for value in (linear.weight, linear.bias, norm.weight))
    return F.rms_norm(F.linear(vectors, weight, bias), norm.normalized_shape, scale, norm.eps)
