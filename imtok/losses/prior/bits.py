"""UniWeTok's generative-aware prior (arXiv 2602.14178): a small generator that predicts the bits of the next token."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from imtok.losses.prior.base import PriorInput, PriorLoss, require_sequence
from imtok.losses.prior.start import StartedGPT
from imtok.nn.exact import exact, exact_backward, exactly
from imtok.nn.initialization import start_weights
from imtok.quantizers.base import Quantizer, token_mean
from imtok.quantizers.signs import SignQuantizer
from imtok.types import Quantized


class BitsPrior(PriorLoss):
    """Predicts every bit of a token on its own, from the tokens before it; gradients reach the encoder through these.

    A token of UniWeTok has 2^128 values, too many for a softmax; its bits are 128 logistic regressions. The loss is
    the sum of their cross entropies, which is that of a softmax over all codes whose bits are independent.

    Differs: the paper gives no code for it. Its generator draws the bits of a token together, by diffusion; here they
    are independent given the tokens before.

    Args:
        dim: Bits of a token.
        num_latents: Tokens of an image.
        width: Width of the transformer.
        depth: Number of its blocks.
        heads: Attention heads of each block.
        dropout: Of the transformer, in training.
        weight: Factor of the cross entropy in the tokenizer's total.

    Raises:
        ValueError: If an argument is out of range; in ``look``, if codes are not made of bits.
    """

    def __init__(
        self,
        dim: int,
        num_latents: int,
        width: int = 384,
        depth: int = 6,
        heads: int = 6,
        dropout: float = 0.0,
        weight: float = 0.02,
    ) -> None:
        super().__init__(weight)
        self.embed = nn.Linear(dim, width)
        self.net = StartedGPT(width, depth, heads, num_latents, dropout)
        self.head = nn.Linear(width, dim)
        for linear in (self.embed, self.head):
            start_weights(linear, "xavier")

    @override
    def look(self, quantized: Quantized, quantizer: Quantizer, encoded: Float[Tensor, "b n _"]) -> PriorInput:
        require_sequence(quantized, quantizer, shortest=1)
        if not isinstance(quantizer, SignQuantizer):
            raise ValueError(
                f"quantizer must have codes of bits for a prior of bits, and {type(quantizer).__name__} has none; give "
                "quantizer=lfq_18, bsq_18 or gq_64, or another objective.prior"
            )
        return PriorInput(quantized.latents, quantized, quantizer)

    @override
    def forward(self, seen: PriorInput, step: int) -> Float[Tensor, ""]:
        quantizer = seen.quantizer
        assert isinstance(quantizer, SignQuantizer)  # as ``look`` has seen
        logits = self.head(self.net(self.embed(seen.vectors)))
        bits = seen.quantized.latents.detach() > (quantizer.low + quantizer.high) / 2
        with exactly(logits.device):
            scores = exact(logits)
            each = F.binary_cross_entropy_with_logits(scores, bits.to(scores.dtype), reduction="none")
            nats = token_mean(each.sum(-1), seen.keep)
        exact_backward([nats], [logits])
        return nats
