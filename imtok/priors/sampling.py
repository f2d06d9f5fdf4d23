"""How one id is drawn from logits, as a function of the logits and of a number in [0, 1) alone."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from imtok.data.order.randomness import Purpose, generator


@dataclass(frozen=True)
class Sampling:
    """How a prior is sampled.

    Attributes:
        seed: Of all draws. A sample is a function of this seed and of its own number, whatever batch it is drawn in.
        temperature: Logits are divided by it; below 1 likely ids become likelier.
        top_k: Only so many of the likeliest ids can be drawn; 0 = all.
        top_p: Only the likeliest ids whose probabilities reach this sum can be drawn; 1 = all (arXiv 1904.09751).
        guidance: Scale of classifier-free guidance (arXiv 2207.12598): ``logits = plain + guidance * (told - plain)``;
            1 = none.
        steps: Of parallel decoding: in so many steps all tokens are drawn. Other priors do not read it.
        choice_temperature: Of parallel decoding: noise on the choice of the tokens that stay, which falls to zero at
            the last step.

    Raises:
        ValueError: If a number is out of range.
    """

    seed: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    guidance: float = 1.0
    steps: int = 12
    choice_temperature: float = 4.5

    def __post_init__(self) -> None:
        for name, good, wanted in (
            ("seed", 0 <= self.seed < 2**63, "at least 0"),
            ("temperature", self.temperature > 0 and math.isfinite(self.temperature), "positive"),
            ("top_k", self.top_k >= 0, "at least 0 (0 = all ids)"),
            ("top_p", 0 < self.top_p <= 1, "in (0, 1]"),
            ("guidance", self.guidance >= 0 and math.isfinite(self.guidance), "at least 0 (1 = none)"),
            ("steps", self.steps >= 1, "at least 1"),
            ("choice_temperature", self.choice_temperature >= 0, "at least 0"),
        ):
            if not good:
                raise ValueError(f"{name} must be {wanted}, got {getattr(self, name)}")

    @property
    def guided(self) -> bool:
        """Whether the logits without a condition are needed."""
        return self.guidance != 1.0


@dataclass(frozen=True)
class Given:
    """Tokens that are not drawn.

    Attributes:
        ids: Of all tokens.
        stays: True where a token is as it is given, also while others are drawn.
    """

    ids: Int64[Tensor, "b t g"]
    stays: Bool[Tensor, "b t"]


def preserved(seed: int, indices: list[int], tokens: int, share: float) -> Bool[Tensor, "b t"]:
    """True for each token with a probability: a function of the seed and of a sample's own index (arXiv 2509.12474)."""
    rows = [generator(Purpose.SAMPLE, seed, 1, index).random(tokens) < share for index in indices]
    return torch.from_numpy(np.stack(rows))


def draws(seed: int, indices: list[int], *shape: int) -> Float64[Tensor, "b *shape"]:
    """Numbers in [0, 1) for some samples: those of each are a function of the seed and of its own index.

    Example:
        >>> bool((draws(0, [3, 5], 4)[1] == draws(0, [5], 4)[0]).all())
        True
    """
    rows = [generator(Purpose.SAMPLE, seed, 0, index).random(shape) for index in indices]
    return torch.from_numpy(np.stack(rows))


def guide(
    told: Float[Tensor, "*b v"], plain: Float[Tensor, "*b v"] | None, settings: Sampling
) -> Float[Tensor, "*b v"]:
    """Logits with classifier-free guidance; ``plain`` None = without."""
    return told if plain is None else plain + settings.guidance * (told - plain)


def log_probabilities(logits: Float[Tensor, "*b v"], settings: Sampling) -> Float64[Tensor, "*b v"]:
    """Of each id, by temperature, top-k and top-p; minus infinity = it cannot be drawn."""
    logits = logits.double() / settings.temperature
    if settings.top_k and settings.top_k < logits.shape[-1]:
        least = logits.topk(settings.top_k, -1).values[..., -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if settings.top_p < 1:
        # an id stays while the likelier ones before it do not reach the sum, so the first always does
        sorted_logits, order = torch.sort(logits, stable=True, dim=-1, descending=True)
        probabilities = sorted_logits.softmax(-1)
        before = probabilities.cumsum(-1) - probabilities
        dropped = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= settings.top_p)
        logits = logits.masked_fill(dropped, -torch.inf)
    return logits.log_softmax(-1)


def pick(
    log_probabilities: Float64[Tensor, "*b v"], uniform: Float64[Tensor, "*b"]
) -> tuple[Int64[Tensor, "*b"], Float64[Tensor, "*b"]]:
    """Draw an id by inverting the distribution function; returns it and its log-probability."""
    probabilities = log_probabilities.exp()
    reached = probabilities.cumsum(-1)
    # scaled by the last sum, so that rounding never leaves the last id out or draws one of no probability
    ids = (reached <= (uniform.to(reached.device) * reached[..., -1])[..., None]).sum(-1)
    ids = ids.clamp(max=log_probabilities.shape[-1] - 1)
    return ids, log_probabilities.gather(-1, ids[..., None])[..., 0]
