"""Binary latents (Instella-T2I, arXiv 2506.21022): a token is a vector of bits, drawn at random in training."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from typing_extensions import override

from imtok.quantizers.base import straight_through, token_mean
from imtok.quantizers.signs import SignQuantizer, bits_to_ids
from imtok.types import Loss, Quantized


class Binary(SignQuantizer):
    """Each channel ``a`` becomes a bit: ``b ~ Bernoulli(sigmoid(a / temperature))`` in training, ``a > 0`` otherwise.

    The gradient is that of ``sigmoid(a)``, without the temperature. The layers around the bits, linear to ``a`` and
    from bits to their embeddings, belong to the encoder and the decoder, so latents are the bits themselves.
    ``confidence = mean sigmoid(a) (1 - sigmoid(a))`` pushes the odds away from even; the public code computes and
    then drops it.

    Args:
        slot_bits: Number of channels of each slot, 1 to 20 each; their sum is the width of the latents.
        temperature: Of the draw in training; near 0 the draw is certain.
        confidence_weight: Weight of the confidence loss; 0 = off.

    Raises:
        ValueError: For a slot, temperature or weight out of range.

    Example:
        >>> quantizer = Binary(slot_bits=[8, 8]).eval()
        >>> quantized = quantizer(torch.ones(1, 1, 16))
        >>> quantized.ids, quantized.latents.sum()
        (tensor([[[255, 255]]]), tensor(16.))
    """

    def __init__(self, slot_bits: Sequence[int], temperature: float = 0.1, confidence_weight: float = 0.0) -> None:
        super().__init__(slot_bits, low=0.0, high=1.0)
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        if not confidence_weight >= 0:
            raise ValueError(f"confidence_weight must not be negative, got {confidence_weight}")
        self.temperature = temperature
        self.confidence_weight = confidence_weight

    @override
    def quantize(self, latents: Float[Tensor, "b n d"], keep: Bool[Tensor, "b n"] | None) -> Quantized:
        likely = latents.sigmoid()
        bits = latents > 0
        losses = {}
        if self.training:
            bits = torch.rand_like(latents, generator=self.generator) < (latents.detach() / self.temperature).sigmoid()
        if self.confidence_weight:
            doubt = token_mean((likely * (1 - likely)).mean(-1), keep)
            losses["confidence"] = Loss(doubt, self.confidence_weight)
        codes = self._codes(bits).to(latents.dtype)
        return Quantized(straight_through(codes, likely), bits_to_ids(bits, self.slot_bits), losses=losses)

    @property
    @override
    def stochastic(self) -> bool:
        return True
