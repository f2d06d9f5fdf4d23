"""SimVQ: a frozen codebook behind one trained linear layer (arXiv 2411.02038)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn
from typing_extensions import override

from imtok.quantizers.base import straight_through
from imtok.quantizers.reparametrized import ReparametrizedVQ
from imtok.quantizers.table import Given


class SimVQ(ReparametrizedVQ):
    """The nearest of the codes ``E = C W^T + b``, where C is frozen noise of variance 1 / dim.

    Search and look-up both go through W (the look-up of the published code forgets it). Losses and the table in
    evaluation are those of :class:`~imtok.quantizers.reparametrized.ReparametrizedVQ`.

    Args:
        dim: Width of latents and codes.
        codebook_size: Number of codes.
        codebook_weight: Weight of the codebook loss.
        commit_weight: Weight of the commitment loss.
        estimator: Gradient past the choice of a code (:func:`imtok.quantizers.table.find_estimator`).

    Raises:
        ValueError: For a size or weight out of range, or an unknown estimator.

    Example:
        >>> quantizer = SimVQ(dim=8, codebook_size=64)
        >>> [name for name, _ in quantizer.named_parameters()]
        ['projection.weight', 'projection.bias']
    """

    basis: Float[Tensor, "v d"]

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        codebook_weight: float = 1.0,
        commit_weight: float = 0.25,
        estimator: Given = "straight_through",
    ) -> None:
        super().__init__(dim, codebook_size, codebook_weight, commit_weight, estimator)
        self.register_buffer("basis", torch.randn(codebook_size, dim) * dim**-0.5)
        self.projection = nn.Linear(dim, dim)

    @override
    def made(self) -> Float[Tensor, "v d"]:
        return self.projection(self.basis)

    @override
    def searched(self) -> Float[Tensor, "v d"]:
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.estimate.soft):
            return self.table()

    @override
    def rows(self, ids: Int64[Tensor, "b n"], table: Float[Tensor, "v d"]) -> Float[Tensor, "b n d"]:
        # Rows of a product are not bit for bit the product of rows: values from the table, gradients by the rows.
        moving = self.projection(F.embedding(ids, self.basis)).to(table.dtype)
        return straight_through(F.embedding(ids, table), moving)
