"""The contract that every regulariser keeps."""

from abc import ABC, abstractmethod

import torch
from torch import nn

from imtok.quantizers.base import Quantizer
from imtok.types import Quantized


class Regularizer(nn.Module, ABC):
    """Draws which tokens stay or change in training; it has no parameters and is never called in evaluation."""

    @abstractmethod
    def forward(self, quantized: Quantized, quantizer: Quantizer, step: int, generator: torch.Generator) -> Quantized:
        """Drop or change tokens.

        Args:
            quantized: What the quantizer returned.
            quantizer: For look-ups and neighbours of ids.
            step: Optimiser step, for schedules.
            generator: The only source of randomness.
        """
