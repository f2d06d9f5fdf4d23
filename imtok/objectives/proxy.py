"""Predict the codes of a frozen tokenizer: the first stage of TiTok (arXiv 2406.07550) and One-D-Piece."""

import torch
from typing_extensions import override

from imtok.decoders.base import ProxyDecoder
from imtok.losses.total import total
from imtok.objectives.base import Objective
from imtok.objectives.codes import code_entropy
from imtok.pixels import to_float
from imtok.spaces.maskgit import MaskGIT
from imtok.tokenizer import Tokenizer
from imtok.types import Batch, Loss, Losses, StepOutput


class ProxyObjective(Objective):
    """Cross entropy of the decoder's scores to the frozen net's codes, and the quantizer's own losses.

    The frozen net belongs to the objective, not to the tokenizer, which so has the same weights in both stages: the
    second starts by ``init_from`` the first.

    Args:
        space: The frozen net.
        weight: Weight of the cross entropy, in nats per code.

    Raises:
        ValueError: If the weight is negative; in ``forward``, if the decoder predicts no codes, or another number of
            them.
    """

    def __init__(self, space: MaskGIT, weight: float = 1.0) -> None:
        super().__init__()
        if weight < 0:
            raise ValueError(f"weight must not be negative, got {weight}")
        self.space = space
        self.weight = weight

    @override
    def forward(self, tokenizer: Tokenizer, batch: Batch, step: int, generator: torch.Generator) -> Losses:
        decoder = tokenizer.decoder
        if not isinstance(decoder, ProxyDecoder):
            raise ValueError(f"decoder must predict codes for this objective, got {type(decoder).__name__}")
        target = to_float(batch.image)
        size = (target.shape[-2], target.shape[-1])
        condition = tokenizer.condition_of(batch)
        quantized = tokenizer.quantize(target, condition=condition, step=step, generator=generator)
        logits = decoder.logits(quantized.latents, size, quantized.keep, condition)
        entropy = code_entropy(logits, self.space.ids(target), self.space)
        terms = {"codes": Loss(entropy, self.weight)} | quantized.losses
        return Losses(total(terms), terms, StepOutput(target, None, quantized))
