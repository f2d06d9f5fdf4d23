"""The plain baseline of all priors: how uncertain a token is, given the one before it, with nothing that learns."""

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from imtok.losses.prior.base import PriorInput, PriorLoss, require_sequence
from imtok.losses.prior.scores import has_unit_codes
from imtok.nn.exact import exact, exact_backward, exactly
from imtok.quantizers.base import Quantizer
from imtok.quantizers.entropy import entropy
from imtok.quantizers.ibq import IBQ
from imtok.quantizers.ranks import kept_per_rank, mean_over_ranks
from imtok.quantizers.shared_vq import SharedVQ
from imtok.quantizers.sphere import unit_length
from imtok.quantizers.table import TableQuantizer
from imtok.types import Quantized

LARGEST = 4096  # codes, whose pairs are held: 64 MiB in float32


class EntropyRate(PriorLoss):
    """The conditional entropy ``H(token | token before it)`` of a micro-batch, from soft assignments.

    With ``p_i`` the softmax of a latent's scores over all codes, the joint distribution of two neighbours is
    the mean of ``p_i p_(i+1)^T`` over all pairs of all ranks, and the loss is its entropy minus that of its first
    margin. It is differentiable in the encoder's latents and in the codes.

    A few thousand pairs say little of a million cells, so the value is too low, the more so the more codes there are:
    at most the logarithm of the number of pairs. Its gradient still draws neighbours to pairs that come often.

    Args:
        temperature: Softmax temperature of the assignments, whose logits are negative squared distances (of IBQ the
            scalar products).
        weight: Factor in the tokenizer's total.

    Raises:
        ValueError: If an argument is out of range; in ``look``, if codes are not those of one table of at most 4096.
    """

    in_batch = True

    def __init__(self, temperature: float = 0.1, weight: float = 0.02) -> None:
        super().__init__(weight)
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        self.temperature = temperature

    @override
    def look(self, quantized: Quantized, quantizer: Quantizer, encoded: Float[Tensor, "b n _"]) -> PriorInput:
        require_sequence(quantized, quantizer, shortest=2)
        weighted = isinstance(quantizer, SharedVQ)  # its distances are not those of the codes
        if not isinstance(quantizer, TableQuantizer) or weighted or quantizer.vocab_sizes[0] > LARGEST:
            raise ValueError(
                f"quantizer must have one table of at most {LARGEST} codes for an entropy rate, got "
                f"{type(quantizer).__name__} with {list(quantizer.vocab_sizes)}; give another objective.prior"
            )
        with exactly(encoded.device):
            latents = exact(encoded)
            if has_unit_codes(quantizer):
                latents = unit_length(latents)
            table = quantizer.table().to(latents.dtype)
            near = latents @ table.T if isinstance(quantizer, IBQ) else -torch.cdist(latents, table).square()
            assignments = (near / self.temperature).softmax(-1)
        exact_backward([assignments], [encoded])
        return PriorInput(assignments, quantized, quantizer)

    @override
    def forward(self, seen: PriorInput, step: int) -> Float[Tensor, ""]:
        before, after = seen.vectors[:, :-1].flatten(0, 1), seen.vectors[:, 1:].flatten(0, 1)
        count = before.new_tensor(float(len(before)))
        with exactly(before.device):
            if seen.keep is not None:
                kept = seen.keep[:, :-1] & seen.keep[:, 1:]
                before, count = before * kept.flatten()[:, None], kept_per_rank(kept, before.dtype)
            joint = mean_over_ranks(before.T @ after / count)
            rate = entropy(joint.flatten()) - entropy(joint.sum(1))
        exact_backward([rate], [seen.vectors])
        return rate
