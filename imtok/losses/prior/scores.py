"""How well a predicted vector fits each code: scalar products with all codes of a slot, or channel by channel.

Where the codes are all combinations of levels (FSQ) or of bits (LFQ, BSQ, GQ, binary latents), the softmax of scalar
products over all codes is a product over channels. It is therefore the same, and costs as many scores as there are
levels, and not the 2^18 or 2^128 that there are codes.
"""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from imtok.nn.exact import exact, exact_backward, exactly
from imtok.quantizers.base import Quantizer
from imtok.quantizers.bsq import BSQ
from imtok.quantizers.fsq import FSQ
from imtok.quantizers.shared_vq import SharedVQ
from imtok.quantizers.signs import SignQuantizer
from imtok.types import Quantized


class CodeScores(ABC):
    """The distribution over the codes of a quantizer that a predicted vector stands for.

    Args:
        temperature: What scalar products are divided by.
    """

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    def nats(self, predicted: Float[Tensor, "b n d"], right: Quantized) -> Float[Tensor, "b n"]:
        """Cross entropy of each token: the sum over its slots. At least float32, whatever autocast says."""
        with exactly(predicted.device):
            found = self._nats(exact(predicted), right)
        exact_backward([found], [predicted])
        return found

    @torch.no_grad()
    def draw(self, predicted: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Codes drawn at random from that distribution, without gradients."""
        with exactly(predicted.device):
            return self._draw(exact(predicted)).to(predicted.dtype)

    @abstractmethod
    def _nats(self, predicted: Float[Tensor, "b n d"], right: Quantized) -> Float[Tensor, "b n"]: ...

    @abstractmethod
    def _draw(self, predicted: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]: ...


class TableScores(CodeScores):
    """Scores by the table of each slot, whose codes are independent given the vector.

    Args:
        tables: Of each slot, as wide as a latent; without gradients.
        temperature: What scalar products are divided by.
    """

    def __init__(self, tables: list[Float[Tensor, "_ d"]], temperature: float) -> None:
        super().__init__(temperature)
        self.tables = tables

    @override
    def _nats(self, predicted: Float[Tensor, "b n d"], right: Quantized) -> Float[Tensor, "b n"]:
        slots = [
            F.cross_entropy(self._logits(predicted, table).transpose(1, 2), right.ids[..., slot], reduction="none")
            for slot, table in enumerate(self.tables)
        ]
        return torch.stack(slots).sum(0)

    @override
    def _draw(self, predicted: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        drawn = []
        for table in self.tables:
            likely = self._logits(predicted, table).softmax(-1)
            ids = torch.multinomial(likely.flatten(0, 1), 1).view(likely.shape[:2])
            drawn.append(F.embedding(ids, table))
        return torch.stack(drawn).sum(0)

    def _logits(self, predicted: Float[Tensor, "b n d"], table: Float[Tensor, "v d"]) -> Float[Tensor, "b n v"]:
        return predicted @ table.to(predicted.dtype).T / self.temperature


class ChannelScores(CodeScores):
    """Scores by the values that each channel can have, independent of the other channels given the vector.

    Args:
        values: Of each channel; filled up with anything where ``there`` is False.
        there: True for the values that a channel has.
        temperature: What products are divided by.
    """

    def __init__(self, values: Float[Tensor, "d levels"], there: Bool[Tensor, "d levels"], temperature: float) -> None:
        super().__init__(temperature)
        self.values, self.there = values, there

    @override
    def _nats(self, predicted: Float[Tensor, "b n d"], right: Quantized) -> Float[Tensor, "b n"]:
        apart = (exact(right.latents.detach())[..., None] - self.values).abs()
        levels = apart.masked_fill(~self.there, float("inf")).argmin(-1, keepdim=True)
        return -self._log_likely(predicted).gather(-1, levels)[..., 0].sum(-1)

    @override
    def _draw(self, predicted: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        likely = self._log_likely(predicted).exp()
        levels = torch.multinomial(likely.flatten(0, 2), 1).view(predicted.shape)
        values = self.values.to(predicted.dtype).expand(*levels.shape, -1)
        return values.gather(-1, levels[..., None])[..., 0]

    def _log_likely(self, predicted: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d levels"]:
        logits = predicted[..., None] * self.values.to(predicted.dtype) / self.temperature
        return logits.masked_fill(~self.there, float("-inf")).log_softmax(-1)


def code_scores(quantizer: Quantizer, temperature: float) -> CodeScores:
    """How codes of a quantizer are scored.

    Args:
        quantizer: Whose latents are sums of a code from each slot's table.
        temperature: What scalar products are divided by.

    Example:
        >>> type(code_scores(FSQ([8, 5, 5, 5]), temperature=1.0)).__name__
        'ChannelScores'
    """
    with torch.no_grad():
        if isinstance(quantizer, SignQuantizer):
            values = quantizer.anchor.new_tensor([[quantizer.low, quantizer.high]]).expand(quantizer.dim, 2)
            return ChannelScores(values, torch.ones_like(values, dtype=torch.bool), temperature)
        if isinstance(quantizer, FSQ):
            values = quantizer.values()
            levels = torch.arange(values.shape[1], device=values.device)
            return ChannelScores(values, levels < quantizer.levels[:, None], temperature)
        return TableScores(quantizer.codebook(), temperature)


def has_unit_codes(quantizer: Quantizer) -> bool:
    """Whether all codes of a quantizer have length 1."""
    if isinstance(quantizer, SharedVQ):  # each of its parts has
        return False
    return isinstance(quantizer, BSQ) or bool(getattr(quantizer, "normalize", False))
