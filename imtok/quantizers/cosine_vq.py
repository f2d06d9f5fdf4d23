"""A codebook that is searched by angle alone, as ImageFolder's code does it at each scale (arXiv 2410.01756)."""

from jaxtyping import Float, Int64
from torch import Tensor
from typing_extensions import override

from imtok.quantizers.search import nearest, nearest_codes
from imtok.quantizers.sphere import unit_length
from imtok.quantizers.vq import VQ


class CosineVQ(VQ):
    """A VQ whose code is the one with the smallest angle to the latent, whatever its length, which it keeps.

    Args:
        dim: Width of the codes.
        codebook_size: Number of codes.
        codebook_weight: As for VQ; so is that which follows.
        commit_weight: Weight of the commitment loss.

    Example:
        >>> import torch
        >>> quantizer = CosineVQ(dim=2, codebook_size=2)
        >>> _ = quantizer.weight.data.copy_(torch.tensor([[0.1, 0.0], [0.0, 5.0]]))
        >>> quantizer(torch.tensor([[[4.0, 3.0]]])).latents.detach()
        tensor([[[0.1000, 0.0000]]])
    """

    def __init__(self, dim: int, codebook_size: int, codebook_weight: float = 1.0, commit_weight: float = 0.25) -> None:
        super().__init__(
            dim, codebook_size, codebook_weight=codebook_weight, commit_weight=commit_weight, normalize=False
        )

    @override
    def choose(self, latents: Float[Tensor, "m d"], table: Float[Tensor, "v d"]) -> Int64[Tensor, " m"]:
        return nearest(unit_length(latents), unit_length(table))

    @override
    def neighbours(self, ids: Int64[Tensor, "b t g"], count: int) -> Int64[Tensor, "b t g count"]:
        return nearest_codes(ids, unit_length(self.table()), count)
