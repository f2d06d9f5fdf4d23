"""A KL bottleneck whose divergence is steered to the bits of a codebook (Gaussian quantization, arXiv 2512.06609)."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from typing_extensions import override

from imtok.quantizers.base import token_mean
from imtok.quantizers.gaussian import Draw, Gaussian
from imtok.types import Loss

_LIMIT = 1e3  # of the factors of groups, as in the public code
_FINITE = 1e30  # of the common factor, which has no limit there


class TargetDivergence(Gaussian):
    """A :class:`~imtok.quantizers.gaussian.Gaussian` whose groups of channels each carry ``log2(codebook_size)`` bits.

    A random code lies near enough to the mean of a group if the group's divergence is the logarithm of the number of
    codes. So ``imtok quantize quantizer=gaussian_codebook`` gives ids afterwards and trains nothing. A group is
    ``code_dim`` channels in a row of one latent, and ``kl`` is

        lambda_mean * sum of w * divergence, in nats per image,

    where w is ``lambda_max`` for groups of more than ``tolerance`` bits above the target, ``lambda_min`` for groups of
    more than that below it, and 1 for the others. After each step a lambda is multiplied or divided by ``factor``:
    ``lambda_mean`` grows if the mean of the batch is above the target, ``lambda_max`` if any group is above, up to
    1000 and down to 1, and ``lambda_min`` falls if any group is below, down to 1/1000 and up to 1. The public code
    does this on each rank alone, stores none of it, and takes 1.4426 for 1 / ln 2; here all ranks see one batch.

    ``bits`` is the mean divergence of a group in bits; its weight is 0.

    Args:
        dim: Width of the latents that the decoder sees.
        code_dim: Channels of a group; a divisor of ``dim``.
        codebook_size: Number of codes of each group, whose logarithm is the target.
        kl_weight: Factor of ``kl`` in the total, before the lambdas.
        tolerance: Bits that a group may be away from the target.
        factor: What a lambda is multiplied or divided by after a step.
        draw: As for :class:`~imtok.quantizers.gaussian.Gaussian`.

    Raises:
        ValueError: For a width, number of codes, weight, tolerance or factor out of range.

    Example:
        >>> quantizer = TargetDivergence(dim=16, code_dim=8, codebook_size=256)
        >>> quantized = quantizer(torch.zeros(1, 4, 32))
        >>> quantizer.update(quantized.stats)  # no group carries a bit: less weight for the divergence
        >>> quantizer.lambda_mean, quantizer.lambda_max, quantizer.lambda_min
        (tensor(0.9901), tensor(1.), tensor(0.9901))
    """

    lambda_mean: Float[Tensor, ""]
    lambda_max: Float[Tensor, ""]
    lambda_min: Float[Tensor, ""]

    def __init__(
        self,
        dim: int,
        code_dim: int = 16,
        codebook_size: int = 65536,
        kl_weight: float = 7.3e-7,
        tolerance: float = 0.5,
        factor: float = 1.01,
        draw: Draw = "sample",
    ) -> None:
        super().__init__(dim, kl_weight, draw)
        if code_dim < 1 or dim % code_dim:
            raise ValueError(f"code_dim must divide dim={dim}, got {code_dim}")
        if codebook_size < 2:
            raise ValueError(f"codebook_size must be at least 2, got {codebook_size}")
        if not (tolerance >= 0 and factor >= 1):
            raise ValueError(f"tolerance must not be negative and factor at least 1, got {tolerance} and {factor}")
        self.code_dim = code_dim
        self.codebook_size = codebook_size
        self.target = math.log2(codebook_size)
        self.tolerance = tolerance
        self.factor = factor
        for name in ("lambda_mean", "lambda_max", "lambda_min"):
            self.register_buffer(name, torch.ones(()))

    @override
    def penalty(
        self, divergence: Float[Tensor, "b n d"], keep: Bool[Tensor, "b n"] | None
    ) -> tuple[dict[str, Loss], dict[str, Tensor]]:
        nats = divergence.unflatten(-1, (-1, self.code_dim)).sum(-1)
        bits = nats.detach() / math.log(2)
        above, below = bits > self.target + self.tolerance, bits < self.target - self.tolerance
        weights = torch.where(above, self.lambda_max, torch.where(below, self.lambda_min, 1.0)) * self.lambda_mean
        total = (weights.to(nats.dtype) * nats).flatten(1).sum(1).mean()
        losses = {"kl": Loss(total, self.kl_weight), "bits": Loss(token_mean(bits.mean(-1), keep), 0.0)}
        if not self.training:
            return losses, {}
        kept = torch.ones_like(above) if keep is None else keep[..., None].expand_as(above)
        return losses, {
            "bits": (bits * kept).sum(),
            "groups": kept.sum(),
            "above": (above & kept).sum(),
            "below": (below & kept).sum(),
        }

    @override
    @torch.no_grad()
    def update(self, stats: dict[str, Tensor]) -> None:
        if not stats or not stats["groups"]:
            return
        bits, groups, above, below = (stats[name].item() for name in ("bits", "groups", "above", "below"))
        self._turn(self.lambda_mean, bits > self.target * groups, 1 / _FINITE, _FINITE)
        self._turn(self.lambda_max, above > 0, 1.0, _LIMIT)
        self._turn(self.lambda_min, below == 0, 1 / _LIMIT, 1.0)

    def _turn(self, value: Float[Tensor, ""], grows: bool, least: float, most: float) -> None:
        before = value.item()  # its product is rounded once, to float32, so that rounding does not add up
        value.fill_(min(max(before * self.factor if grows else before / self.factor, least), most))
