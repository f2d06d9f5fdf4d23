"""What quantizers with one table of codes have in common."""

from abc import abstractmethod

import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from typing_extensions import override

from imtok.quantizers.base import Quantizer
from imtok.quantizers.search import nearest_codes
from imtok.types import Quantized


class TableQuantizer(Quantizer):
    """A quantizer of one slot whose latents are rows of :meth:`table`.

    Args:
        dim: Width of latents and codes.
        codebook_size: Number of codes.
        loss_weights: None may be negative.

    Raises:
        ValueError: For a size or weight out of range.
    """

    def __init__(self, dim: int, codebook_size: int, loss_weights: tuple[float, ...]) -> None:
        super().__init__()
        if dim < 1 or codebook_size < 1:
            raise ValueError(f"dim and codebook_size must be at least 1, got {dim} and {codebook_size}")
        if min(loss_weights) < 0:
            raise ValueError(f"loss weights must not be negative, got {', '.join(map(str, loss_weights))}")
        self.dim = dim
        self.vocab_sizes = (codebook_size,)

    @abstractmethod
    def table(self) -> Float[Tensor, "v d"]:
        """The codes that decoders see, with gradients to whatever makes them."""

    @override
    def decode(self, ids: Int64[Tensor, "b t g"], slots: int | None = None) -> Float[Tensor, "b n d"]:
        codes = F.embedding(ids[..., 0], self.table())
        return codes if slots is None or slots > 0 else codes * 0

    @override
    def codebook(self) -> list[Float[Tensor, "v d"]]:
        return [self.table().detach()]

    @override
    def neighbours(self, ids: Int64[Tensor, "b t g"], count: int) -> Int64[Tensor, "b t g count"]:
        return nearest_codes(ids, self.table(), count)


class NearestQuantizer(TableQuantizer):
    """A quantizer of one table that takes the nearest code, unless a search over several tables has chosen another."""

    @abstractmethod
    @override
    def quantize(
        self,
        latents: Float[Tensor, "b n d"],
        keep: Bool[Tensor, "b n"] | None,
        ids: Int64[Tensor, "b n"] | None = None,
    ) -> Quantized:
        """As :meth:`Quantizer.quantize`.

        Args:
            latents: The encoder's latents; zero where they are not kept.
            keep: True = transmitted.
            ids: The codes; None = the nearest ones.
        """
