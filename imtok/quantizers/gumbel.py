"""Codes drawn with the Gumbel-softmax trick (arXiv 1611.01144, 1611.00712; DALL-E's dVAE, arXiv 2102.12092)."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from typing_extensions import override

from imtok.quantizers.base import token_mean
from imtok.quantizers.soft_estimators import relaxed, with_gumbel_noise
from imtok.quantizers.table import TableQuantizer
from imtok.types import Loss, Quantized

_LEAST = 1e-30  # of a probability whose logarithm is taken


class GumbelVQ(TableQuantizer):
    """Reads a logit for each code off a latent, and draws the code in training.

    With logits ``l = W z + b``, Gumbel noise ``g``, temperature ``t`` and ``s = softmax((l + g) / t)``, the code of the
    greatest ``l + g`` is passed on, and the logits get the gradient of ``s E``. The row of the table that was drawn
    gets the decoder's gradient. In evaluation there is no noise, so an image has one sequence of ids. (taming's code
    draws noise there, too.) ``kl = sum p log(p K)`` with ``p = softmax(l)`` is the divergence from an even choice.

    The temperature falls from ``temperature`` to ``final_temperature`` along half a cosine over the first ``anneal``
    steps. Every token has a probability for each code, so 64 images of 256 tokens and 8,192 codes take 0.5 GB for each
    such table.

    Args:
        dim: Width of latents and codes.
        codebook_size: Number of codes, ``K``.
        kl_weight: Weight of the divergence.
        temperature: Temperature of the softmax at the first step.
        final_temperature: Temperature after ``anneal`` steps.
        anneal: Number of steps in which the temperature falls; 0 = it stays at ``temperature``.

    Raises:
        ValueError: For a size, weight, temperature or number of steps out of range.

    Example:
        >>> quantizer = GumbelVQ(dim=8, codebook_size=64)
        >>> latents = torch.randn(1, 16, 8)
        >>> torch.equal(quantizer(latents).ids, quantizer(latents).ids)  # drawn
        False
        >>> torch.equal(quantizer.eval()(latents).ids, quantizer(latents).ids)
        True
    """

    steps: Int64[Tensor, ""]

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        kl_weight: float = 5e-4,
        temperature: float = 1.0,
        final_temperature: float = 1.0,
        anneal: int = 0,
    ) -> None:
        super().__init__(dim, codebook_size, (kl_weight,))
        self.moves_codes = True
        if min(temperature, final_temperature) <= 0:
            raise ValueError(f"temperatures must be positive, got {temperature} and {final_temperature}")
        if anneal < 0:
            raise ValueError(f"anneal must be 0 or a number of steps, got {anneal}")
        self.kl_weight = kl_weight
        self.temperatures, self.anneal = (temperature, final_temperature), anneal
        self.logits = nn.Linear(dim, codebook_size)
        self.weight = nn.Parameter(torch.randn(codebook_size, dim))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    @override
    def quantize(self, latents: Float[Tensor, "b n d"], keep: Bool[Tensor, "b n"] | None) -> Quantized:
        table = self.table().to(latents.dtype)
        logits = F.linear(latents, self.logits.weight.to(latents.dtype), self.logits.bias.to(latents.dtype))
        scores, temperature = logits, self.temperature()
        if self.training:
            scores = with_gumbel_noise(logits, self.generator)
        ids = scores.argmax(-1)
        codes = relaxed(F.embedding(ids, table), (scores / temperature).softmax(-1), table)
        chances = logits.softmax(-1)
        divergence = (chances * (chances.clamp_min(_LEAST).log() + math.log(len(table)))).sum(-1)
        stats = {"steps": latents.new_ones(())} if self.training and self.anneal else {}
        losses = {"kl": Loss(token_mean(divergence, keep), self.kl_weight)}
        return Quantized(codes, ids[..., None], losses=losses, stats=stats)

    def temperature(self) -> Float[Tensor, ""]:
        """The temperature of the present step."""
        first, last = self.temperatures
        passed = (self.steps / max(self.anneal, 1)).clamp(max=1)
        return last + (first - last) * (1 + (math.pi * passed).cos()) / 2

    @override
    def table(self) -> Float[Tensor, "v d"]:
        return self.weight

    @override
    @torch.no_grad()
    def update(self, stats: dict[str, Tensor]) -> None:
        if stats:
            self.steps += 1

    @property
    @override
    def stochastic(self) -> bool:
        return True
