"""ETT's prior (End-to-End Vision Tokenizer Tuning, arXiv 2505.10562): a transformer that reads the codebook itself."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from imtok.losses.prior.base import PriorInput, PriorLoss, require_sequence
from imtok.losses.prior.start import StartedGPT
from imtok.nn.exact import exact, exact_backward, exactly
from imtok.nn.initialization import start_weights
from imtok.quantizers.base import Quantizer, token_mean
from imtok.quantizers.table import TableQuantizer
from imtok.types import Quantized

LARGEST = 1 << 20  # codes that a linear layer tells apart


class ETTPrior(PriorLoss):
    """Predicts each token by a softmax over all ids; gradients reach the encoder and the codebook.

    What the transformer reads is the row of the codebook that stands for a token, through a small MLP: so the codes
    learn from the cross entropy, and past the choice of a code the encoder does. In the paper the transformer is a
    language model that writes captions; here it predicts the image's own tokens, of which it needs no text.

    Args:
        dim: Width of the codes.
        vocab_sizes: Number of codes: of a single slot.
        num_latents: Tokens of an image.
        width: Width of the transformer.
        depth: Number of its blocks.
        heads: Attention heads of each block.
        dropout: Of the transformer, in training.
        weight: Factor of the cross entropy in the tokenizer's total: the balance with what reconstructs.

    Raises:
        ValueError: If an argument is out of range; in ``look``, if there is no codebook that learns by gradients.
    """

    def __init__(
        self,
        dim: int,
        vocab_sizes: list[int],
        num_latents: int,
        width: int = 384,
        depth: int = 6,
        heads: int = 6,
        dropout: float = 0.0,
        weight: float = 0.005,
    ) -> None:
        super().__init__(weight)
        if len(vocab_sizes) != 1 or vocab_sizes[0] > LARGEST:
            raise ValueError(
                f"vocab_sizes must be that of one table of at most {LARGEST} codes for ETT, got {list(vocab_sizes)}; "
                "give quantizer=vq, simvq or ibq, or another objective.prior"
            )
        self.project = nn.Sequential(nn.Linear(dim, width), nn.GELU(), nn.Linear(width, width))
        self.net = StartedGPT(width, depth, heads, num_latents, dropout)
        self.head = nn.Linear(width, vocab_sizes[0])
        for part in (self.project, self.head):
            start_weights(part, "xavier")

    @override
    def look(self, quantized: Quantized, quantizer: Quantizer, encoded: Float[Tensor, "b n _"]) -> PriorInput:
        require_sequence(quantized, quantizer, shortest=1)
        learns = any(parameter.requires_grad for parameter in quantizer.parameters())
        if not isinstance(quantizer, TableQuantizer) or (self.weight and not learns):
            raise ValueError(
                f"quantizer must have a codebook that learns by gradients for ETT, and {type(quantizer).__name__} has "
                "none here; give quantizer=vq, simvq or ibq, or another objective.prior"
            )
        table = quantizer.table()
        through = quantized.latents.to(table.dtype)
        if not quantizer.moves_codes:  # else the latents have the gradient of the codebook themselves
            through = F.embedding(quantized.ids[..., 0], table) + (through - through.detach())
        if quantized.keep is not None:
            through = through.masked_fill(~quantized.keep[..., None], 0)
        return PriorInput(through.to(quantized.latents.dtype), quantized, quantizer)

    @override
    def forward(self, seen: PriorInput, step: int) -> Float[Tensor, ""]:
        logits = self.head(self.net(self.project(seen.vectors)))
        with exactly(logits.device):
            scores = exact(logits)
            each = F.cross_entropy(scores.transpose(1, 2), seen.ids[..., 0], reduction="none")
            nats = token_mean(each, seen.keep)
        exact_backward([nats], [logits])
        return nats
