"""Reconstruct the image: pixel losses and the quantizer's own (VQ-VAE, arXiv 1711.00937)."""

from collections.abc import Mapping
from typing import cast

import torch
from torch import nn
from typing_extensions import override

from imtok.losses.base import ImageLoss
from imtok.objectives.base import Objective
from imtok.pixels import to_float
from imtok.tokenizer import Tokenizer
from imtok.types import Batch, Loss, Losses, Shown


class ReconstructionObjective(Objective):
    """The weighted sum of image losses and quantizer losses.

    Args:
        losses: Image losses by the name under which they are logged.

    Raises:
        ValueError: If there is no image loss.
    """

    def __init__(self, losses: Mapping[str, ImageLoss]) -> None:
        super().__init__()
        if not losses:
            raise ValueError("losses must name at least one image loss, got none")
        self.losses = nn.ModuleDict(losses)

    @override
    def forward(self, tokenizer: Tokenizer, batch: Batch, step: int, generator: torch.Generator) -> Losses:
        target = to_float(batch.image)
        reconstruction = tokenizer(target, step=step, generator=generator)
        image = reconstruction.image.to(target.dtype)
        terms = {
            name: Loss(loss(image, target), cast(ImageLoss, loss).weight) for name, loss in self.losses.items()
        } | reconstruction.quantized.losses
        total = torch.stack([value * weight for value, weight in terms.values() if weight]).sum()
        return Losses(total, terms, Shown(target, image, reconstruction.quantized))
