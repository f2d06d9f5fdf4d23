"""SimVQ: a frozen codebook behind one trained linear layer (arXiv 2411.02038)."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.quantizers.base import straight_through, token_mean
from imtok.quantizers.estimators import find_estimator
from imtok.quantizers.search import nearest
from imtok.quantizers.table import TableQuantizer
from imtok.types import Loss, Quantized


class SimVQ(TableQuantizer):
    """The nearest of the codes ``E = C W^T + b``, where C is frozen noise of variance 1 / dim.

    A codebook that is trained row by row moves only the rows in use, and the others die. Here the loss of any row
    moves W and b, and so all codes at once. ``codebook = mean |e - sg z|^2``, ``commit = mean |z - sg e|^2``. Search
    and look-up both go through W (the look-up of the published code forgets it).

    Args:
        dim: Width of latents and codes.
        codebook_size: Number of codes.
        codebook_weight: Weight of the codebook loss.
        commit_weight: Weight of the commitment loss.
        estimator: Gradient past the choice of a code: ``straight_through`` or ``rotation``.

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
        estimator: str = "straight_through",
    ) -> None:
        super().__init__(dim, codebook_size, (codebook_weight, commit_weight))
        self.codebook_weight = codebook_weight
        self.commit_weight = commit_weight
        self.estimate = find_estimator(estimator)
        self.register_buffer("basis", torch.randn(codebook_size, dim) * dim**-0.5)
        self.projection = nn.Linear(dim, dim)

    @override
    def quantize(self, latents: Float[Tensor, "b n d"], keep: Bool[Tensor, "b n"] | None) -> Quantized:
        with torch.no_grad():
            table = self.table().to(latents.dtype)
        ids = nearest(latents.flatten(0, 1), table).view(latents.shape[:2])
        # Rows of a product are not bit for bit the product of rows: values from the table, gradients by the rows.
        moving = self.projection(F.embedding(ids, self.basis)).to(latents.dtype)
        codes = straight_through(F.embedding(ids, table), moving)
        losses = {
            "codebook": Loss(token_mean((codes - latents.detach()).square().mean(-1), keep), self.codebook_weight),
            "commit": Loss(token_mean((codes.detach() - latents).square().mean(-1), keep), self.commit_weight),
        }
        return Quantized(self.estimate(codes, latents), ids[..., None], losses=losses)

    @override
    def table(self) -> Float[Tensor, "v d"]:
        with torch.autocast(self.basis.device.type, enabled=False):  # look-ups are also made outside forward
            return self.projection(self.basis)
