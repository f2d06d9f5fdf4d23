"""Finite scalar perturbation (FSP, arXiv 2602.17133): scalar codes that are learned from noise of their width."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from typing_extensions import override

from imtok.quantizers.base import straight_through
from imtok.quantizers.fsq import FSQ
from imtok.quantizers.ranks import batch_moments
from imtok.types import Loss, Quantized


class _Activation(NamedTuple):
    """A distribution function, and the variance that makes its values even where latents have it (rounded as there)."""

    spread: Callable[[Tensor], Tensor]
    variance: float


def _laplace(latents: Tensor) -> Tensor:
    tail = (-latents.abs()).exp() / 2
    return torch.where(latents < 0, tail, 1 - tail)


ACTIVATIONS = {
    "tanh": _Activation(lambda latents: (latents.tanh() + 1) / 2, 0.8225),
    "sigmoid": _Activation(torch.sigmoid, 3.29),
    "normal": _Activation(lambda latents: (1 + (latents / math.sqrt(2)).erf()) / 2, 1.0),
    "laplace": _Activation(_laplace, 2.0),
}


class FSP(FSQ):
    """Gives each channel one of a few codes; in training most channels get noise as wide as a code instead.

    A distribution function takes a channel to ``p`` in (0, 1), which is cut into L bins of one width. A code is the
    middle of its bin. Codes are scaled so that an even choice of many has mean 0 and variance 1:
    ``(p - 1/2) sqrt(12)``.

    In training each channel of each latent is quantized with probability ``quantize_rate``, with the gradient of ``p``.
    Otherwise it is ``p + u``, where ``u`` is even in (-1/2L, 1/2L); where that leaves (0, 1), it is ``p``. So latents
    are near the codes of their ids in training, and are these codes in evaluation. Ids are the same in both.

    Two losses make ``p`` even: ``mean``, the squares of each channel's mean over tokens and ranks, and ``variance``,
    the squared differences of its variance and that of the distribution. Both are means over channels.

    Args:
        levels: Number of codes of each channel, at least 2 each; their number is the width of the latents.
        activation: The distribution function: ``tanh``, ``sigmoid``, ``normal`` or ``laplace``.
        quantize_rate: Probability that a channel is quantized in training. 0.5 in the paper.
        mean_weight: Weight of the loss of means.
        variance_weight: Weight of the loss of variances.

    Raises:
        ValueError: For levels as of :class:`~imtok.quantizers.fsq.FSQ`, an unknown activation, a rate outside [0, 1] or
            a negative weight.

    Example:
        >>> quantizer = FSP(levels=[4, 4]).eval()
        >>> quantizer(torch.tensor([[[-9.0, 0.1]]])).latents
        tensor([[[-1.2990,  0.4330]]])
    """

    def __init__(
        self,
        levels: Sequence[int],
        activation: str = "tanh",
        quantize_rate: float = 0.5,
        mean_weight: float = 0.1,
        variance_weight: float = 0.07,
    ) -> None:
        super().__init__(levels)
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
        if not 0 <= quantize_rate <= 1:
            raise ValueError(f"quantize_rate must be in [0, 1], got {quantize_rate}")
        if not min(mean_weight, variance_weight) >= 0:
            raise ValueError(f"loss weights must not be negative, got {mean_weight} and {variance_weight}")
        self.activation = ACTIVATIONS[activation]
        self.quantize_rate = quantize_rate
        self.mean_weight = mean_weight
        self.variance_weight = variance_weight

    @override
    def quantize(self, latents: Float[Tensor, "b n d"], keep: Bool[Tensor, "b n"] | None) -> Quantized:
        share = self.activation.spread(latents)
        bins = (share.detach().nan_to_num() * self.levels).floor().long().minimum(self.levels - 1)
        codes = self._codes(bins - self.levels // 2).to(latents.dtype)
        given = straight_through(codes, self._scaled(share))
        if self.training and self.noisy:
            near = self._scaled(self._perturbed(share))
            given = torch.where(self._drawn(share) > self.quantize_rate, near, given)
        mean, variance = batch_moments(latents, keep)
        losses = {
            "mean": Loss(mean.square().mean(), self.mean_weight),
            "variance": Loss((variance - self.activation.variance).square().mean(), self.variance_weight),
        }
        return Quantized(given, (bins * self.places).sum(-1, keepdim=True), losses=losses)

    @property
    @override
    def stochastic(self) -> bool:
        return self.noisy

    @property
    @override
    def noisy(self) -> bool:
        return self.quantize_rate < 1

    def _perturbed(self, share: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        moved = share + (2 * self._drawn(share) - 1) / (2 * self.levels)
        return torch.where((moved > 0) & (moved < 1), moved, share)

    def _drawn(self, like: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        return torch.rand_like(like, generator=self.generator)

    @override
    def _codes(self, digits: Int64[Tensor, "*shape d"]) -> Float[Tensor, "*shape d"]:
        bins = (digits + self.levels // 2).to(self.halves.dtype)
        return self._scaled((bins + 0.5) / self.levels)

    @staticmethod
    def _scaled(share: Float[Tensor, "*shape d"]) -> Float[Tensor, "*shape d"]:
        return (share - 0.5) * math.sqrt(12)
