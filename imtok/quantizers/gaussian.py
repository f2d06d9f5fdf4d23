"""A KL bottleneck: a normal distribution for each channel of a latent (VAE, arXiv 1312.6114; as in LDM, 2112.10752)."""

from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from typing_extensions import override

from imtok.quantizers.continuous import Continuous
from imtok.types import Loss, Quantized

Draw = Literal["sample", "mode"]
_LEAST, _MOST = -30.0, 20.0  # log variances beyond are cut off, as in LDM


class Gaussian(Continuous):
    """Reads a mean and a log variance per channel, and passes on a sample of that distribution or its mean.

    The encoder is built twice as wide: channel ``2 c`` of its output is the mean of channel ``c``, and ``2 c + 1`` its
    log variance. So an encoder whose branches stand side by side in channels gives whole distributions in each branch.
    Evaluation always takes the mean, so that an image has one latent. There are no ids until ``imtok quantize``
    gives some to the means.

    ``kl = 1/2 sum (mean^2 + variance - 1 - log variance)`` is the divergence from a standard normal in nats per image:
    summed over channels and kept latents, averaged over images. All codes named here sum it so. What differs is what
    stands beside it, and with that what a weight means:

    * TiTok and TA-TiTok KL (arXiv 2406.07550, 2501.07730): 1e-6, beside a mean of squared errors over pixels, as here.
    * LDM (arXiv 2112.10752), with whose code MAR's KL-16 (arXiv 2406.11838) was trained: 1e-6, beside a *sum* of errors
      over pixels and colours. Beside a mean over 256 x 256 pixels that is 1e-6 / 196,608 = 5.1e-12.

    Args:
        dim: Width of the latents that the decoder sees.
        kl_weight: Factor of the KL divergence in the total; ``objective.ramps.kl`` lets it grow over the first steps.
        draw: In training, "sample" = from torch's global generator, which each step seeds anew; "mode" = the mean.

    Raises:
        ValueError: If ``dim`` is below 1, the weight is negative or there is no such ``draw``.

    Example:
        >>> quantizer = Gaussian(dim=16)
        >>> quantized = quantizer.eval()(torch.zeros(1, 4, 32))
        >>> quantized.latents.shape, quantized.ids.shape, quantized.losses["kl"].value
        (torch.Size([1, 4, 16]), torch.Size([1, 4, 0]), tensor(0.))
    """

    def __init__(self, dim: int, kl_weight: float = 1e-6, draw: Draw = "sample") -> None:
        super().__init__(dim)
        if not kl_weight >= 0:
            raise ValueError(f"kl_weight must not be negative, got {kl_weight}")
        if draw not in get_args(Draw):
            raise ValueError(f"draw must be one of {', '.join(get_args(Draw))}, got {draw!r}")
        self.kl_weight = kl_weight
        self.draw = draw

    @property
    @override
    def stochastic(self) -> bool:
        return self.draw == "sample"

    @property
    @override
    def in_dim(self) -> int:
        return 2 * self.dim

    @override
    def quantize(self, latents: Float[Tensor, "b n d2"], keep: Bool[Tensor, "b n"] | None) -> Quantized:
        mean, log_variance = means(latents), log_variances(latents)
        # Latents that are not kept are all zero here: a standard normal, of divergence 0.
        divergence = (mean.square() + log_variance.expm1() - log_variance) / 2
        losses, stats = self.penalty(divergence, keep)
        if self.training and self.draw == "sample":
            mean = mean + (log_variance / 2).exp() * torch.randn_like(mean, generator=self.generator)
        ids = latents.new_empty((*latents.shape[:2], 0)).long()
        return Quantized(mean, ids, losses=losses, stats=stats)

    def penalty(
        self, divergence: Float[Tensor, "b n d"], keep: Bool[Tensor, "b n"] | None
    ) -> tuple[dict[str, Loss], dict[str, Tensor]]:
        """The losses that come of the divergence of each channel, in nats, and the statistics of a step."""
        return {"kl": Loss(divergence.flatten(1).sum(1).mean(), self.kl_weight)}, {}


def means(moments: Float[Tensor, "*shape d2"]) -> Float[Tensor, "*shape d"]:
    """The mean of each channel, of latents that hold mean and log variance in turn."""
    return moments[..., 0::2]


def log_variances(moments: Float[Tensor, "*shape d2"]) -> Float[Tensor, "*shape d"]:
    """The log variance of each channel of such latents, cut off as in LDM."""
    return moments[..., 1::2].clamp(_LEAST, _MOST)
