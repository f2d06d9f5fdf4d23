"""Learn how many tokens an image needs from what they do to its reconstruction (ALTo, arXiv 2505.16495)."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from typing_extensions import override

from imtok.encoders.alto import ALToEncoder
from imtok.losses.adversarial import Adversary
from imtok.losses.alignment.base import AlignmentLoss
from imtok.losses.base import ImageLoss
from imtok.losses.total import with_terms
from imtok.objectives.draws import image_draws
from imtok.objectives.ramps import Ramp
from imtok.objectives.reconstruction import ReconstructionObjective
from imtok.pixels import to_float
from imtok.tokenizer import Tokenizer, tapped
from imtok.types import Batch, Loss, Losses, Reconstruction


class ALToObjective(ReconstructionObjective):
    """Reconstruct from the first few tokens of each image, whose number costs something.

    ``length = mean expected place of the last token / tokens``. The predictor is drawn by it to few tokens, and by the
    image losses to those that help: what a token is multiplied by has a gradient. The mean is over all images, of which
    those with random numbers add 0, over the share that is not random: it does not depend on how many were drawn, and
    micro-batches and ranks add up to one batch. What is drawn for an image depends on the step and the image alone.

    At first numbers are drawn at random, so that any first few tokens are worth decoding, and the predictor rests. The
    public code then trains the predictor alone; here all goes on learning, and a share of the images keeps to random
    numbers.

    Args:
        losses: As for :class:`~imtok.objectives.reconstruction.ReconstructionObjective`, as what follows.
        adversary: The same.
        alignments: The same.
        ramps: The same.
        length_weight: Factor of the length in the total.
        predict_from: Step from which the predictor chooses.
        random_share: Share of the images whose number is drawn at random from then on.
        seed: Seed of the random lengths.

    Raises:
        ValueError: If a number is out of range; in ``forward``, if the encoder predicts no length, or a regulariser
            would drop tokens too.
    """

    def __init__(
        self,
        losses: Mapping[str, ImageLoss],
        adversary: Adversary | None = None,
        alignments: Mapping[str, AlignmentLoss] | None = None,
        ramps: Mapping[str, Ramp] | None = None,
        length_weight: float = 0.01,
        predict_from: int = 0,
        random_share: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(losses, adversary, alignments, ramps)
        if length_weight < 0 or predict_from < 0 or not 0 <= random_share < 1:
            raise ValueError(
                "length_weight and predict_from must not be negative and random_share must be in [0, 1), got "
                f"{length_weight}, {predict_from} and {random_share}"
            )
        self.length_weight, self.predict_from, self.random_share = length_weight, predict_from, random_share
        self.seed = seed

    @override
    def forward(self, tokenizer: Tokenizer, batch: Batch, step: int, generator: torch.Generator) -> Losses:
        encoder = tokenizer.encoder
        if not isinstance(encoder, ALToEncoder):
            raise ValueError(f"encoder must be alto for the objective alto, got {type(encoder).__name__}")
        if tokenizer.regularizer is not None:
            raise ValueError("regularizer must be none for the objective alto, which drops tokens itself")
        target, condition = to_float(batch.image), tokenizer.condition_of(batch)
        with tapped(tokenizer, self.taps) as taps:
            values, chunk = encoder.predicted(target)
            quantized = tokenizer.quantizer(values)
            count = values.shape[1]
            share = self.random_share if step >= self.predict_from else 1.0
            draws = image_draws(batch, step, self.seed, 2)
            drawn = (draws[:, 0] < share).to(values.device)
            numbers = (1 + (draws[:, 1:] * count).long()).to(values.device)
            at_random = (torch.arange(count, device=values.device) < numbers).to(chunk.present.dtype)
            present = torch.where(drawn[:, None], at_random, chunk.present)
            latents = quantized.latents * present[..., None].to(quantized.latents.dtype)
            quantized = replace(quantized, latents=latents)
            # without a mask: what is multiplied by zero must still feel what it would be worth
            image = tokenizer.decoder(latents, (target.shape[-2], target.shape[-1]), None, condition)
        found = self.judge(tokenizer, target, Reconstruction(image, quantized, taps), step, batch.caption)
        chosen = (~drawn).to(chunk.share.dtype)
        cost = Loss((chunk.share * chosen).mean() / (1 - self.random_share), self.length_weight)
        return with_terms(found, {"length": cost}, {"tokens": chunk.length.double().mean()})
