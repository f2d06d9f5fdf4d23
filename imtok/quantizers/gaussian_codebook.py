"""A codebook of Gaussian noise for a trained KL bottleneck (Gaussian quantization, arXiv 2512.06609)."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.quasirandom import SobolEngine
from typing_extensions import override

from imtok.quantizers.base import Quantizer, straight_through
from imtok.quantizers.gaussian import log_variances, means
from imtok.quantizers.search import most_similar, nearest_codes
from imtok.types import Quantized

_INSIDE = 2.0**-26  # a number of float32 between 0 and 1 is no nearer to 1 without being 1


class GaussianCodebook(Quantizer):
    """Replaces each group of channels by a code of fixed normal noise; a slot per group, one codebook for all.

    It reads the mean m and variance s^2 of each channel, as an encoder gives them that was trained with
    :class:`~imtok.quantizers.target_divergence.TargetDivergence`, and takes the code c whose density under them is the
    greatest, relative to its density under the standard normal that all codes were drawn from:

        log N(c; m, s^2) - prior_weight * log N(c; 0, 1), summed over the group.

    That is linear in c and c^2, so it is searched as a product. The codes are the normal quantiles of a scrambled Sobol
    sequence and are stored, since no release of torch promises the sequence of another. There is nothing to train and
    no loss. The gradient is that of ``m + s * noise``, with the noise that makes this the code.

    A group is ``code_dim`` channels in a row. In the public code it is every ``dim / code_dim``-th channel.

    Args:
        dim: Width of the latents that the decoder sees; the encoder gives twice as many numbers.
        code_dim: Channels of a code; a divisor of ``dim``.
        codebook_size: Number of codes.
        seed: Of the scrambling.
        prior_weight: Weight of the density under the standard normal; 0 = the greatest density alone.

    Raises:
        ValueError: For a width or a number out of range.

    Example:
        >>> quantizer = GaussianCodebook(dim=16, code_dim=8, codebook_size=256)
        >>> quantized = quantizer(torch.randn(2, 4, 32))
        >>> quantized.ids.shape, quantizer.bits_per_token
        (torch.Size([2, 4, 2]), 16.0)
    """

    codes: Float[Tensor, "v c"]

    def __init__(
        self, dim: int, code_dim: int = 16, codebook_size: int = 65536, seed: int = 42, prior_weight: float = 1.0
    ) -> None:
        super().__init__()
        if code_dim < 1 or dim < 1 or dim % code_dim:
            raise ValueError(f"code_dim must divide dim={dim}, got {code_dim}")
        if codebook_size < 2:
            raise ValueError(f"codebook_size must be at least 2, got {codebook_size}")
        if not prior_weight >= 0:
            raise ValueError(f"prior_weight must not be negative, got {prior_weight}")
        self.dim = dim
        self.code_dim = code_dim
        self.vocab_sizes = (codebook_size,) * (dim // code_dim)
        self.prior_weight = prior_weight
        drawn = SobolEngine(code_dim, scramble=True, seed=seed).draw(codebook_size, dtype=torch.float32)
        self.register_buffer("codes", torch.special.ndtri(drawn.double().clamp(_INSIDE, 1 - _INSIDE)).float())

    @property
    @override
    def in_dim(self) -> int:
        return 2 * self.dim

    @override
    def quantize(self, latents: Float[Tensor, "b n d2"], keep: Bool[Tensor, "b n"] | None) -> Quantized:
        mean, log_variance = means(latents), log_variances(latents)
        ids = self._choose(mean.detach(), log_variance.detach())
        codes = self.look_up(ids).to(mean.dtype)
        deviation = (log_variance / 2).exp()
        noise = ((codes - mean) / deviation).detach()
        return Quantized(straight_through(codes, mean + deviation * noise), ids)

    def _choose(self, mean: Float[Tensor, "b n d"], log_variance: Float[Tensor, "b n d"]) -> Int64[Tensor, "b n g"]:
        precision = (-log_variance).exp()
        queries = torch.stack([mean * precision, (self.prior_weight - precision) / 2], -2)
        groups = queries.unflatten(-1, (-1, self.code_dim)).movedim(-2, -3).flatten(-2).flatten(0, -2)
        codes = self.codes.to(mean.dtype)
        table = torch.cat([codes, codes.square()], 1)
        return most_similar(groups, table, table.new_zeros(len(table))).view(*mean.shape[:2], -1)

    @override
    def decode(self, ids: Int64[Tensor, "b t g"], slots: int | None = None) -> Float[Tensor, "b n d"]:
        codes = F.embedding(ids[..., :slots], self.codes).flatten(-2)
        return F.pad(codes, (0, self.dim - codes.shape[-1]))

    @override
    def codebook(self) -> list[Float[Tensor, "v d"]]:
        starts = range(0, self.dim, self.code_dim)
        return [F.pad(self.codes, (start, self.dim - self.code_dim - start)) for start in starts]

    @override
    def neighbours(self, ids: Int64[Tensor, "b t g"], count: int) -> Int64[Tensor, "b t g count"]:
        return nearest_codes(ids, self.codes, count)
