"""Rebuild a frozen net's features from selected patches (LaVIT, arXiv 2309.04669)."""

from collections.abc import Mapping

import torch
from torch.nn import functional as F
from typing_extensions import override

from imtok.decoders.lavit import FeatureQueryDecoder
from imtok.encoders.lavit import SelectingEncoder
from imtok.losses.adversarial import Adversary
from imtok.losses.alignment.base import AlignmentLoss
from imtok.losses.base import ImageLoss
from imtok.losses.total import with_terms
from imtok.objectives.ramps import Ramp
from imtok.objectives.reconstruction import ReconstructionObjective
from imtok.pixels import to_float
from imtok.tokenizer import Tokenizer, tapped
from imtok.types import Batch, Loss, Losses, Reconstruction


class LaVITObjective(ReconstructionObjective):
    """``1 - cosine`` between the rebuilt features and those of the frozen net, and the selector's rate.

    ``rate = mean over images of (wanted share - share of selected patches)^2``. The loss of pixels
    is not in the paper.

    Args:
        losses: See :class:`~imtok.objectives.reconstruction.ReconstructionObjective`.
        adversary: See the same class.
        alignments: See the same class.
        ramps: See the same class.
        feature_weight: Weight of the features' loss.
        rate: Wanted share of selected patches, in (0, 1].
        rate_weight: Weight of the rate's loss.

    Raises:
        ValueError: If a number is out of range; in ``forward``, if encoder or decoder is not LaVIT's, features have
            another width, or a regulariser also drops tokens.
    """

    def __init__(
        self,
        losses: Mapping[str, ImageLoss],
        adversary: Adversary | None = None,
        alignments: Mapping[str, AlignmentLoss] | None = None,
        ramps: Mapping[str, Ramp] | None = None,
        feature_weight: float = 1.0,
        rate: float = 1 / 3,
        rate_weight: float = 2.0,
    ) -> None:
        super().__init__(losses, adversary, alignments, ramps)
        if feature_weight < 0 or rate_weight < 0 or not 0 < rate <= 1:
            raise ValueError(
                "feature_weight and rate_weight must not be negative and rate must be in (0, 1], got "
                f"{feature_weight}, {rate_weight} and {rate}"
            )
        self.feature_weight, self.rate, self.rate_weight = feature_weight, rate, rate_weight

    @override
    def forward(self, tokenizer: Tokenizer, batch: Batch, step: int, generator: torch.Generator) -> Losses:
        encoder, decoder = tokenizer.encoder, tokenizer.decoder
        if not isinstance(encoder, SelectingEncoder) or not isinstance(decoder, FeatureQueryDecoder):
            kinds = f"{type(encoder).__name__} and {type(decoder).__name__}"
            raise ValueError(f"encoder and decoder must be lavit for the objective lavit, got {kinds}")
        if tokenizer.regularizer is not None:
            raise ValueError("regularizer must be none for the objective lavit, which drops tokens itself")
        target = to_float(batch.image)
        with tapped(tokenizer, self.taps) as taps:
            selected = encoder.selected(target)
            quantized = tokenizer.quantizer(selected.values, selected.keep)
            size = (target.shape[-2], target.shape[-1])
            rebuilt = decoder.rebuilt(quantized.latents, size, quantized.keep)
        if rebuilt.features.shape != selected.features.shape:
            wide = rebuilt.features.shape[-1]
            raise ValueError(f"decoder.feature_dim must be {encoder.width}, the width of encoder.net, got {wide}")
        found = self.judge(tokenizer, target, Reconstruction(rebuilt.image, quantized, taps), step, batch.caption)
        alike = F.cosine_similarity(rebuilt.features.float(), selected.features.detach().float(), dim=-1)
        terms = {
            "features": Loss(1 - alike.mean(), self.feature_weight),
            "rate": Loss((self.rate - selected.share).square().mean(), self.rate_weight),
        }
        numbers = {"tokens": selected.keep.double().sum(1).mean()}
        return with_terms(found, terms, numbers, idle=rebuilt.features)
