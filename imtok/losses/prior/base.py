"""The contract that every prior keeps that a tokenizer learns with."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from imtok.quantizers.base import Quantizer
from imtok.types import Quantized


@dataclass(frozen=True)
class PriorInput:
    """What a prior looks at of a micro-batch.

    Attributes:
        vectors: What stands for each token, in the order of the sequence, with gradients to the tokenizer.
        quantized: Ids, codes and mask of the same tokens, as the decoder saw them.
        quantizer: Whose codes they are. Nothing of it may learn through a prior but by ``vectors``.
    """

    vectors: Float[Tensor, "b n _"]
    quantized: Quantized
    quantizer: Quantizer

    @property
    def ids(self) -> Int64[Tensor, "b n g"]:
        """Token ids."""
        return self.quantized.ids

    @property
    def keep(self) -> Bool[Tensor, "b n"] | None:
        """True where a token counts; None = all do."""
        return self.quantized.keep

    def detached(self) -> "PriorInput":
        """The same without gradients to the tokenizer."""
        quantized = replace(self.quantized, latents=self.quantized.latents.detach(), losses={}, stats={})
        return replace(self, vectors=self.vectors.detach(), quantized=quantized)


class PriorLoss(nn.Module, ABC):
    """How many nats a token costs, given those before it: raster order of a grid, or the order of a sequence.

    Args:
        weight: Factor in the tokenizer's total; 0 = the prior learns and the tokenizer does not feel it.

    Raises:
        ValueError: If the weight is negative.
    """

    def __init__(self, weight: float) -> None:
        super().__init__()
        if not weight >= 0:
            raise ValueError(f"weight must not be negative, got {weight}")
        self.weight = weight

    @abstractmethod
    def look(self, quantized: Quantized, quantizer: Quantizer, encoded: Float[Tensor, "b n _"]) -> PriorInput:
        """What it looks at in a step.

        Args:
            quantized: Codes with their graph, as the decoder saw them.
            quantizer: Whose codes they are.
            encoded: The encoder's latents that were quantized, with their graph.

        Raises:
            ValueError: If it cannot work with codes of this quantizer.
        """

    @abstractmethod
    def forward(self, seen: PriorInput, step: int) -> Float[Tensor, ""]:
        """Mean loss in nats per token, over the tokens of all ranks. Draws from torch's global generator.

        Args:
            seen: What :meth:`look` gave.
            step: Optimiser steps taken so far.
        """


def require_sequence(quantized: Quantized, quantizer: Quantizer, shortest: int) -> None:
    """Refuse codes that are no sequence of one token for each latent.

    Args:
        quantized: The codes.
        quantizer: Whose codes they are.
        shortest: Fewest tokens that can be predicted.

    Raises:
        ValueError: That names the class of the quantizer.
    """
    name, (tokens, slots), latents = type(quantizer).__name__, quantized.ids.shape[1:], quantized.latents.shape[1]
    if not slots:
        raise ValueError(f"quantizer must give ids for a prior to predict, and {name} gives none; give quantizer=vq")
    if tokens != latents:
        raise ValueError(
            f"quantizer must give one token for each latent for a prior to predict, and {name} gives {tokens} for "
            f"{latents}; give another quantizer, or ~objective.prior"
        )
    if tokens < shortest:
        raise ValueError(f"a prior must have at least {shortest} tokens to predict one from another, got {tokens}")
