"""No quantization: the bottleneck of a continuous autoencoder, for TokenBridge to quantize or Semanticist to model."""

from typing import NoReturn

from jaxtyping import Bool, Float, Int64
from torch import Tensor
from typing_extensions import override

from imtok.errors import InputError
from imtok.quantizers.base import Quantizer
from imtok.types import Quantized

GIVE_IDS = "give it ids first: imtok quantize tokenizer=RUN"


class Continuous(Quantizer):
    """Passes latents through. There are no slots, so ids are ``b n 0`` and nothing can be decoded from them.

    Args:
        dim: Width of the latents.

    Raises:
        ValueError: If ``dim`` is below 1.

    Example:
        >>> import torch
        >>> quantizer = Continuous(dim=16)
        >>> quantizer(torch.zeros(1, 4, 16)).ids.shape, quantizer.vocab_sizes, quantizer.bits_per_token
        (torch.Size([1, 4, 0]), (), 0.0)
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"dim must be at least 1, got {dim}")
        self.dim = dim
        self.vocab_sizes = ()

    @override
    def quantize(self, latents: Float[Tensor, "b n d"], keep: Bool[Tensor, "b n"] | None) -> Quantized:
        return Quantized(latents, latents.new_empty((*latents.shape[:2], 0)).long())

    @override
    def decode(self, ids: Int64[Tensor, "b t g"], slots: int | None = None) -> NoReturn:
        """Refuses: there are no ids.

        Raises:
            InputError: Always.
        """
        raise InputError(f"a continuous tokenizer has no ids to decode; {GIVE_IDS}")

    @override
    def check_ids(self, ids: Tensor, slots: int | None = None) -> None:
        """There are none to check: :meth:`decode` says so."""

    @override
    def codebook(self) -> list[Float[Tensor, "v d"]]:
        return []

    @override
    def neighbours(self, ids: Int64[Tensor, "b t g"], count: int) -> Int64[Tensor, "b t g count"]:
        return ids[..., None].expand(*ids.shape, count)

    @property
    @override
    def bits_per_token(self) -> float:
        return 0.0
