"""LARP's prior (arXiv 2410.21264): a causal transformer that reads codes as vectors and partly its own guesses."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from imtok.losses.prior.base import PriorInput, PriorLoss, require_sequence
from imtok.losses.prior.scores import code_scores, has_unit_codes
from imtok.nn.gpt import GPT
from imtok.nn.initialization import start_weights
from imtok.quantizers.base import Quantizer, token_mean
from imtok.types import Quantized


class LARPPrior(PriorLoss):
    """Predicts each token but the first from the codes before it; gradients reach the encoder through these codes.

    From the vectors ``x_1 .. x_i`` the net predicts a vector, of unit length where the codes are, whose scalar products
    with all codes are the scores of token ``i + 1``. A second round reads a code drawn from these scores in place of
    some tokens (scheduled sampling), so that the prior also learns to go on from what it says itself. The loss is the
    mean cross entropy of all rounds. No gradient reaches the codebook, neither as input nor in the scores.

    Args:
        dim: Width of the codes.
        num_latents: Tokens of an image.
        max_steps: Optimiser steps of the run.
        width: Width of the transformer.
        depth: Number of its blocks.
        heads: Attention heads of each block.
        dropout: Of the transformer, in training.
        rounds: How often the prior reads the sequence; 1 = without its own guesses.
        sampled: Share of the tokens that are drawn once it is at its greatest, in [0, 1].
        sampled_peak: Share of the run in the course of which it gets there from 0, above 0.
        temperature: What scores are divided by.
        weight: Factor of the cross entropy in the tokenizer's total.

    Raises:
        ValueError: If an argument is out of range; in ``look``, if the codes are no sequence of at least two tokens.
    """

    def __init__(
        self,
        dim: int,
        num_latents: int,
        max_steps: int,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        dropout: float = 0.1,
        rounds: int = 2,
        sampled: float = 0.5,
        sampled_peak: float = 0.3,
        temperature: float = 1.0,
        weight: float = 0.06,
    ) -> None:
        super().__init__(weight)
        if rounds < 1 or not 0 <= sampled <= 1 or not sampled_peak > 0 or not temperature > 0 or max_steps < 1:
            raise ValueError(
                "rounds and max_steps must be at least 1, sampled in [0, 1], sampled_peak and temperature positive, "
                f"got {rounds}, {max_steps}, {sampled}, {sampled_peak} and {temperature}"
            )
        self.max_steps = max_steps
        self.rounds = rounds
        self.sampled = sampled
        self.sampled_peak = sampled_peak
        self.temperature = temperature
        self.embed = nn.Linear(dim, width)
        self.net = GPT(width, depth, heads, max(1, num_latents - 1), dropout)
        self.head = nn.Linear(width, dim)
        for linear in (self.embed, self.head):
            start_weights(linear, "xavier")

    @override
    def look(self, quantized: Quantized, quantizer: Quantizer, encoded: Float[Tensor, "b n _"]) -> PriorInput:
        require_sequence(quantized, quantizer, shortest=2)
        return PriorInput(quantized.latents, quantized, quantizer)

    @override
    def forward(self, seen: PriorInput, step: int) -> Float[Tensor, ""]:
        first, rest = seen.vectors[:, :1], seen.vectors[:, 1:]
        right = Quantized(seen.quantized.latents[:, 1:], seen.ids[:, 1:])
        scores = code_scores(seen.quantizer, self.temperature)
        drawn_here = torch.rand(*rest.shape[:2], 1, device=rest.device) < self.share(step)
        found, read = list[Tensor](), seen.vectors
        for number in range(self.rounds):
            predicted = self.predict(read[:, :-1], has_unit_codes(seen.quantizer))
            found.append(scores.nats(predicted, right))
            if number + 1 < self.rounds:
                guessed = scores.draw(predicted)
                read = torch.cat([first, torch.where(drawn_here, guessed.to(rest.dtype), rest)], 1)
        keep = None if seen.keep is None else seen.keep[:, 1:]
        return token_mean(torch.stack(found).mean(0), keep)

    def predict(self, vectors: Float[Tensor, "b n d"], unit: bool) -> Float[Tensor, "b n d"]:
        """For each token the vector that is expected to come next, of length 1 where ``unit`` says so."""
        predicted = self.head(self.net(self.embed(vectors)))
        return F.normalize(predicted, dim=-1) if unit else predicted

    def share(self, step: int) -> float:
        """Share of the tokens that are drawn in a step."""
        return min(1.0, step / (self.max_steps * self.sampled_peak)) * self.sampled
