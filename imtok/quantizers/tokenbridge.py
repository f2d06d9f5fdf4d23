"""Post-training quantization of a continuous autoencoder, channel by channel (TokenBridge, arXiv 2503.16430)."""

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from typing_extensions import override

from imtok.quantizers.base import Quantizer, straight_through
from imtok.quantizers.gaussian import means
from imtok.types import Quantized

Reads = Literal["latents", "moments"]


class TokenBridge(Quantizer):
    """Rounds each channel to the nearest of ``2^bits`` values; a slot per channel.

    The values are the means of intervals of equal mass of a standard normal cut off at ``clip``, stretched so that
    ``clip`` falls on ``spread`` standard deviations of the latents. As given they serve latents of mean 0 and
    deviation 1; :meth:`fit` places them on latents as they are. There is nothing to train and no loss.

    The public code cuts off by moving the limits of intervals to ``clip``. Where that empties an interval (more than
    9 bits at 3) it yields values out of order; here the intervals share the mass inside ``clip`` instead. It also
    quantizes a sample of the posterior; here it is the mean, for ids that are always the same.

    Args:
        dim: Width of the latents.
        bits: Bits per channel, 1 to 12.
        spread: Range of the latents that the values span, in standard deviations.
        clip: Range of the normal whose intervals they are, in standard deviations.
        reads: What the encoder gives: "latents", or "moments" = mean and log variance of each channel in turn, as an
            encoder does that was trained with :class:`~imtok.quantizers.gaussian.Gaussian`; the means are quantized.

    Raises:
        ValueError: For a width, number of bits or range out of range, or if there is no such ``reads``.

    Example:
        >>> quantizer = TokenBridge(dim=16, bits=6)
        >>> quantizer.fit(3 + 0.5 * torch.randn(1000, 16))
        >>> quantizer.bits_per_token, quantizer(torch.full((1, 4, 16), 3.0)).ids.shape
        (96.0, torch.Size([1, 4, 16]))
    """

    values: Float[Tensor, "d v"]

    def __init__(
        self, dim: int, bits: int = 6, spread: float = 5.0, clip: float = 3.0, reads: Reads = "latents"
    ) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"dim must be at least 1, got {dim}")
        if not 1 <= bits <= 12:
            raise ValueError(f"bits must be between 1 and 12, got {bits}")
        if not (spread > 0 and clip > 0):
            raise ValueError(f"spread and clip must be positive, got {spread} and {clip}")
        if reads not in get_args(Reads):
            raise ValueError(f"reads must be one of {', '.join(get_args(Reads))}, got {reads!r}")
        self.dim = dim
        self.reads = reads
        self.vocab_sizes = (2**bits,) * dim
        self.spread = spread
        self.clip = clip
        self.register_buffer("values", self._standard_values().float().repeat(dim, 1))

    @property
    @override
    def in_dim(self) -> int:
        return 2 * self.dim if self.reads == "moments" else self.dim

    @torch.no_grad()
    def fit(self, latents: Float[Tensor, "m d"]) -> None:
        """Place the values by mean and standard deviation of each channel.

        Args:
            latents: Latents of a continuous autoencoder, a few thousand or more; of a Gaussian's the means.

        Raises:
            ValueError: If a channel is constant or not finite, so that it has no values to place.
        """
        exact = latents.double()
        mean, deviation = exact.mean(0)[:, None], exact.std(0)[:, None]
        values = (mean + deviation * self._standard_values().to(exact.device)).to(self.values)
        if not (values.isfinite().all() and (values.diff(dim=-1) > 0).all()):
            raise ValueError(
                f"latents must be finite and vary in each channel to be fitted, got deviations from "
                f"{deviation.min().item():.3g} to {deviation.max().item():.3g}"
            )
        self.values.copy_(values)

    @override
    def quantize(self, latents: Float[Tensor, "b n _"], keep: Bool[Tensor, "b n"] | None) -> Quantized:
        if self.reads == "moments":
            latents = means(latents)
        limits = ((self.values[:, 1:] + self.values[:, :-1]) / 2).to(latents.dtype)
        columns = latents.detach().flatten(0, 1).T.contiguous()
        ids = torch.searchsorted(limits, columns).T.reshape(latents.shape)  # on a limit: the lower id
        return Quantized(straight_through(self.look_up(ids).to(latents.dtype), latents), ids)

    @override
    def decode(self, ids: Int64[Tensor, "b t g"], slots: int | None = None) -> Float[Tensor, "b n d"]:
        used = range(self.dim)[:slots]
        channels = torch.tensor(used, device=ids.device)
        return F.pad(self.values[channels, ids[..., : len(used)]], (0, self.dim - len(used)))

    @override
    def codebook(self) -> list[Float[Tensor, "v d"]]:
        return list((self.values[:, :, None] * torch.eye(self.dim, device=self.values.device)[:, None]).unbind())

    @override
    def neighbours(self, ids: Int64[Tensor, "b t g"], count: int) -> Int64[Tensor, "b t g count"]:
        vocabulary = self.vocab_sizes[0]
        if not 1 <= count <= vocabulary:
            raise ValueError(f"count of neighbours must be between 1 and the vocabulary {vocabulary}, got {count}")
        near = ids[..., None] + torch.arange(1 - count, count, device=ids.device)  # values are in order
        channel = torch.arange(self.dim, device=ids.device)[:, None]
        distances = (self.values[channel, near.clamp(0, vocabulary - 1)] - self.values[channel, ids[..., None]]).abs()
        distances = distances.masked_fill((near < 0) | (near >= vocabulary), torch.inf)
        return near.gather(-1, distances.sort(dim=-1, stable=True).indices[..., :count])

    def _standard_values(self) -> Float[Tensor, " v"]:
        """The values for mean 0 and deviation 1, in order, in float64."""
        count = self.vocab_sizes[0]
        normal = torch.distributions.Normal(torch.zeros((), dtype=torch.float64), 1.0, validate_args=False)
        tail = 0.5 * math.erfc(self.clip / math.sqrt(2))  # mass below -clip
        empty = 1 / count <= tail
        shares = torch.arange(1, count, dtype=torch.float64) / count
        inner = normal.icdf(tail + (1 - 2 * tail) * shares if empty else shares)
        limits = F.pad(inner, (1, 1)).index_fill(0, torch.tensor(0), -self.clip)
        limits[-1] = self.clip
        mean = -normal.log_prob(limits).exp().diff() / normal.cdf(limits).diff()
        return mean * (self.spread / self.clip)
