"""Look-up-free quantization (LFQ, MAGVIT-v2, arXiv 2310.05737), with the slots of Open-MAGVIT2 (arXiv 2409.04410)."""

from collections.abc import Sequence

from jaxtyping import Bool, Float
from torch import Tensor
from typing_extensions import override

from imtok.quantizers.base import straight_through, token_mean
from imtok.quantizers.entropy import EntropyWeights, bit_entropies, entropy_groups
from imtok.quantizers.signs import SignQuantizer, bits_to_ids
from imtok.types import Loss, Quantized


class LFQ(SignQuantizer):
    """Each channel becomes its sign, -1 or +1; all sign codes ``c`` are the codebook.

    With ``p(c | z) = softmax_c(2 z . c / temperature)`` over all ``2^d`` codes,
    ``entropy_token = mean_n H(p(. | z_n))`` makes each token sure of its code, ``entropy_codebook = H(mean_n p)``
    spreads the tokens over the codes, and ``commit = mean (z - sg sign z)^2`` keeps latents near them. ``p`` is a
    product over channels with log-odds ``4 z / temperature``, so both entropies are exact up to 20 channels, over
    all tokens of all ranks. Above that ``entropy_codebook`` is the sum over groups of channels, an upper bound;
    ``exact_entropy`` tells. Entropies are for training only.

    Slots say how a code is written as ids and nothing else: [18] and [6, 12] are the same codes.

    Args:
        slot_bits: Number of channels of each slot, 1 to 20 each; their sum is the width of the latents.
        commit_weight: Weight of the commitment loss.
        entropy_weight: Weight of both entropy terms, of the second with a minus sign, or two; 0 = off.
        temperature: Softmax temperature. At 0.01 only latents within about 0.03 of zero feel the first entropy.
        entropy_bits: Most channels in a group, 1 to 20; None = one group up to 20 channels, else groups of at most 12.

    Raises:
        ValueError: For a slot, weight, temperature or group out of range.

    Example:
        >>> import torch
        >>> quantizer = LFQ(slot_bits=[6, 12])
        >>> quantizer.dim, quantizer.vocab_sizes, quantizer.exact_entropy
        (18, (64, 4096), True)
        >>> LFQ(slot_bits=[4])(torch.tensor([[[0.3, -0.1, 0.0, -2.0]]])).ids
        tensor([[[1]]])
    """

    def __init__(
        self,
        slot_bits: Sequence[int],
        commit_weight: float = 0.25,
        entropy_weight: float | Sequence[float] = 0.1,
        temperature: float = 0.01,
        entropy_bits: int | None = None,
    ) -> None:
        super().__init__(slot_bits, low=-1.0, high=1.0)
        if not commit_weight >= 0:
            raise ValueError(f"commit_weight must not be negative, got {commit_weight}")
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        self.commit_weight = commit_weight
        self.entropy_weight = EntropyWeights.of(entropy_weight)
        self.temperature = temperature
        self.groups = entropy_groups(self.dim, entropy_bits)

    @property
    def exact_entropy(self) -> bool:
        """Whether ``entropy_codebook`` is exact; otherwise it is an upper bound."""
        return len(self.groups) == 1

    @override
    def quantize(self, latents: Float[Tensor, "b n d"], keep: Bool[Tensor, "b n"] | None) -> Quantized:
        points = self.bound(latents)
        bits = points > 0
        codes = self._codes(bits).to(points.dtype)
        losses = {}
        if self.commit_weight:
            losses["commit"] = Loss(token_mean((points - codes).square().mean(-1), keep), self.commit_weight)
        if self.training and self.entropy_weight:
            per_token, of_mean = self.entropies(self.log_odds(points), keep)
            losses |= self.entropy_weight.losses(per_token, of_mean)
        return Quantized(straight_through(codes, points), bits_to_ids(bits, self.slot_bits), losses=losses)

    def bound(self, latents: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """What the signs are taken of: the latents as they are."""
        return latents

    def log_odds(self, points: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Log-odds of each bit being 1, by ``p(c | z)``."""
        return 2 * (self.high - self.low) / self.temperature * points

    def entropies(
        self, log_odds: Float[Tensor, "b n d"], keep: Bool[Tensor, "b n"] | None
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Mean entropy of the tokens and entropy of their mean, in nats."""
        return bit_entropies(log_odds, keep, self.groups)
