"""The two stages of ALIT (arXiv 2411.02393): codes after every rollout, then pixels after one of them in turn."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from typing_extensions import override

from imtok.encoders.alit import ALITEncoder
from imtok.losses.adversarial import Adversary
from imtok.losses.base import ImageLoss
from imtok.losses.total import total
from imtok.objectives.base import Objective
from imtok.objectives.codes import code_parts, code_terms
from imtok.objectives.images import image_terms
from imtok.objectives.passes import together
from imtok.pixels import to_float
from imtok.tokenizer import Tokenizer
from imtok.types import Batch, Loss, Losses, Quantized, StepOutput


class ALITDistillation(Objective):
    """Stage 1: after every rollout the decoder is to tell the codes of the frozen net.

    Image tokens whose code is already predicted well are taken out of the rollouts that follow, at random. Freeze
    ``decoder.codebook`` and ``decoder.pixels``.

    Args:
        rollout_weights: Weight of each rollout's cross entropy.
        mixture_weight: Weight of the squared error of the mean code that the scores expect, in each rollout.
        halt_above: An image token with a chance above this to be told right is taken out with just that chance; 1 =
            none is.

    Raises:
        ValueError: In ``forward``, if the tokenizer is not ALIT's or has another number of rollouts.
    """

    def __init__(
        self,
        rollout_weights: Sequence[float] = (2.5, 2.0, 1.5, 1.25, 1.0, 1.0, 1.0, 1.0),
        mixture_weight: float = 1.0,
        halt_above: float = 0.55,
    ) -> None:
        super().__init__()
        self.rollout_weights = tuple(rollout_weights)
        self.mixture_weight = mixture_weight
        self.halt_above = halt_above

    @override
    def forward(self, tokenizer: Tokenizer, batch: Batch, step: int, generator: torch.Generator) -> Losses:
        encoder = alit_encoder(tokenizer)
        decoder, space = code_parts(tokenizer)
        if len(self.rollout_weights) != encoder.rollouts:
            raise ValueError(
                f"rollout_weights must be {encoder.rollouts}, one per rollout, got {len(self.rollout_weights)}"
            )
        target = to_float(batch.image)
        size = (target.shape[-2], target.shape[-1])
        codes, condition = space.ids(target), tokenizer.condition_of(batch)
        terms, parts, halted = dict[str, Loss](), list[Quantized](), None
        tokens = encoder.start(target)
        for rollout, weight in enumerate(self.rollout_weights):
            if rollout:
                tokens = encoder.grow(tokens, size, rollout, halted)
            tokens = encoder.trunk(tokens)
            quantized = tokenizer.quantizer(encoder.read(tokens, rollout + 1))
            logits = decoder.logits(quantized.latents, size, None, condition)
            found = code_terms(logits, codes, space, (weight, self.mixture_weight))
            terms |= {f"{name}_{quantized.ids.shape[1]}": term for name, term in found.items()}
            halted = self._halt(logits.detach(), codes, generator)
            parts.append(quantized)
        quantized = together(parts)
        terms |= quantized.losses
        return Losses(total(terms), terms, StepOutput(target, None, quantized))

    def _halt(
        self, logits: Float[Tensor, "b m v"], codes: Int64[Tensor, "b m"], generator: torch.Generator
    ) -> Bool[Tensor, "b m"]:
        chance = logits.float().softmax(-1).gather(-1, codes[..., None])[..., 0]
        drawn = torch.rand(chance.shape, generator=generator).to(chance.device)
        return (drawn < chance) & (chance > self.halt_above)


class ALITFinetuning(Objective):
    """Stage 2: pixel losses after one rollout, the next one in every step.

    Nothing is taken out of the rollouts, as in the public code. That also trains the frozen net's encoder and has a
    discriminator for each rollout, which is updated in 8 of 9 steps; here the space stays frozen, and one critic sees
    the images of all rollouts.

    Args:
        losses: Image losses by the name under which they are logged.
        adversary: A critic that learns to tell reconstructions from originals; None = there is none.

    Raises:
        ValueError: If there is no image loss; in ``forward``, if the encoder is not ALIT's.
    """

    def __init__(self, losses: Mapping[str, ImageLoss], adversary: Adversary | None = None) -> None:
        super().__init__()
        if not losses:
            raise ValueError("losses must name at least one image loss, got none")
        self.losses = nn.ModuleDict(losses)
        self.critic = adversary

    @override
    def forward(self, tokenizer: Tokenizer, batch: Batch, step: int, generator: torch.Generator) -> Losses:
        encoder = alit_encoder(tokenizer)
        target = to_float(batch.image)
        size = (target.shape[-2], target.shape[-1])
        rollouts = step % encoder.rollouts + 1
        condition = tokenizer.condition_of(batch)
        quantized = tokenizer.quantize(target, rollouts * encoder.latents, condition)
        image = tokenizer.decoder(quantized.latents, size, None, condition).to(target.dtype)
        losses = dict(self.losses.items())
        found = image_terms(image, target, losses, self.adversary, tokenizer.decoder, step)
        return Losses(
            total(found.total, quantized.losses, 0 * _untouched(encoder)),
            found.terms | quantized.losses,
            StepOutput(target, image, quantized),
            found.numbers,
        )


def alit_encoder(tokenizer: Tokenizer) -> ALITEncoder:
    """The tokenizer's encoder; ValueError if it has no rollouts."""
    if not isinstance(tokenizer.encoder, ALITEncoder):
        raise ValueError(f"encoder must be ALIT's for this objective, got {type(tokenizer.encoder).__name__}")
    return tokenizer.encoder


def _untouched(encoder: ALITEncoder) -> Float[Tensor, ""]:
    """Parameters of the second and later rollouts: DDP waits for a gradient of them in every step, if only zero."""
    later = [encoder.missing, *encoder.norm_grow.parameters()]
    return torch.stack([parameter.sum() for parameter in later]).sum()
