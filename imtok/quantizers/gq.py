"""Group-wise look-up-free quantization (GQ, WeTok, arXiv 2508.05599; UniWeTok, arXiv 2602.14178)."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from typing_extensions import override

from imtok.quantizers.entropy import bit_assignments, entropy
from imtok.quantizers.lfq import LFQ


class GQ(LFQ):
    """LFQ in groups of channels, each group a slot with entropies of its own, so that 128 bits cost 16 times 256.

    Signs, commitment and ``p`` within a group are those of :class:`LFQ`. Both entropies are means over groups:
    ``entropy_token = mean_ng H(p_g(. | z_n))`` and ``entropy_codebook = mean_g H(mean_n p_g)``. The code of WeTok
    pools the second over groups, ``H(mean_ng p_g)``: groups that are each stuck on a code of their own look
    diverse to it. ``pool_groups`` does the same.

    Args:
        groups: Number of groups.
        group_bits: Number of channels of a group, 1 to 20.
        commit_weight: Weight of the commitment loss.
        entropy_weight: Weight of both entropy terms, of the second with a minus sign, or two; 0 = off.
        temperature: Softmax temperature.
        pool_groups: Average the assignments over groups, too, before their entropy is taken.
        siglu: Bound the latents to (-1, 1) by UniWeTok's SigLu, ``2 sigmoid(z) - 1``, before anything else.

    Raises:
        ValueError: For a number of groups below 1 and for a group, weight or temperature out of range.

    Example:
        >>> quantizer = GQ(groups=4, group_bits=8)
        >>> quantizer.dim, quantizer.vocab_sizes, quantizer.bits_per_token
        (32, (256, 256, 256, 256), 32.0)
    """

    def __init__(
        self,
        groups: int,
        group_bits: int = 8,
        commit_weight: float = 0.25,
        entropy_weight: float | Sequence[float] = 0.1,
        temperature: float = 0.01,
        pool_groups: bool = False,
        siglu: bool = False,
    ) -> None:
        if groups < 1:
            raise ValueError(f"groups must be at least 1, got {groups}")
        super().__init__([group_bits] * groups, commit_weight, entropy_weight, temperature, group_bits)
        self.pool_groups = pool_groups
        self.siglu = siglu

    @override
    def bound(self, latents: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """The latents, or their SigLu, which keeps every sign: ``2 sigmoid(z) - 1 = tanh(z / 2)``."""
        return (latents / 2).tanh() if self.siglu else latents

    @override
    def entropies(
        self, log_odds: Float[Tensor, "b n d"], keep: Bool[Tensor, "b n"] | None
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Mean over groups of the entropy of the tokens and of the entropy of their mean, in nats."""
        per_token, means = bit_assignments(log_odds, keep, self.groups)
        assignments = torch.stack(means)
        of_mean = entropy(assignments.mean(0)) if self.pool_groups else entropy(assignments).mean()
        return per_token / len(means), of_mean
