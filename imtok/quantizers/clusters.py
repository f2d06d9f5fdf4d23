"""Nearest of the centres of clusters: k-means on features of a frozen net (DiGIT, arXiv 2410.12490)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from typing_extensions import override

from imtok.quantizers.kmeans import kmeans
from imtok.quantizers.table import TableQuantizer
from imtok.types import Quantized


class KMeans(TableQuantizer):
    """Replaces each latent by the nearest centre, in Euclidean distance; of equal distances by the first.

    The centres are fitted to the latents of a whole data set before the decoder learns (``imtok quantize``), and stay
    as they are. Without that, a run fits them to the latents of its first batch. There is nothing to train and no loss.

    Args:
        dim: Width of latents and centres.
        codebook_size: Number of centres.

    Raises:
        ValueError: If a number is below 1.

    Example:
        >>> quantizer = KMeans(dim=8, codebook_size=16)
        >>> quantizer.start(torch.randn(1000, 8))
        >>> quantized = quantizer(torch.randn(2, 4, 8))
        >>> quantized.ids.shape, torch.equal(quantizer.decode(quantized.ids), quantized.latents)
        (torch.Size([2, 4, 1]), True)
    """

    centres: Float[Tensor, "v d"]

    def __init__(self, dim: int, codebook_size: int) -> None:
        super().__init__(dim, codebook_size, (0.0,))
        self.register_buffer("centres", torch.randn(codebook_size, dim))

    @override
    def table(self) -> Float[Tensor, "v d"]:
        return self.centres

    @override
    def quantize(self, latents: Float[Tensor, "b n d"], keep: Bool[Tensor, "b n"] | None) -> Quantized:
        centres = self.centres.to(latents.dtype)
        chosen = self.estimate(latents, centres, self)
        return Quantized(chosen.latents, chosen.ids[..., None])

    @override
    @torch.no_grad()
    def start(self, latents: Float[Tensor, "m d"]) -> None:
        points = latents.to(self.centres.dtype)
        self.centres.copy_(kmeans(points, len(self.centres), torch.Generator().manual_seed(0)))
