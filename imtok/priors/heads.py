"""Heads: how the ids of one token go into a transformer, and how it says what the ids of a token may be.

A token of ``g`` slots has ``g`` ids. The heads differ in what the slots of a token know of each other.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from imtok.nn.transformer import BlockStyle, Transformer
from imtok.priors.sampling import Sampling, guide, log_probabilities, pick


class TokenHead(nn.Module, ABC):
    """What a prior's trunk, which knows vectors alone, is told of ids and says of them.

    Attributes:
        draws: Numbers in [0, 1) that sampling one token takes.
    """

    draws: int

    @abstractmethod
    def embed(self, ids: Int64[Tensor, "b n g"]) -> Float[Tensor, "b n d"]:
        """A vector for each token."""

    @abstractmethod
    def nats(self, hidden: Float[Tensor, "b n d"], ids: Int64[Tensor, "b n g"]) -> Float[Tensor, "b n g"]:
        """Minus the logarithm of the probability of each id, given what the trunk says of its token."""

    @abstractmethod
    def sample(
        self,
        hidden: Float[Tensor, "b n d"],
        plain: Float[Tensor, "b n d"] | None,
        uniform: Float64[Tensor, "b n u"],
        settings: Sampling,
    ) -> tuple[Int64[Tensor, "b n g"], Float64[Tensor, "b n"]]:
        """Draw tokens.

        Args:
            hidden: What the trunk says of each token.
            plain: What it says without a condition, for guidance; None = there is none.
            uniform: Numbers in [0, 1), ``draws`` of them for each token.
            settings: See there.

        Returns:
            Ids, and the log-probability of each token under these settings.
        """

    def require(self, settings: Sampling) -> None:
        """Raise ValueError if a head cannot be sampled by these settings."""


class _Tables(nn.Module):
    """A table of vectors for each slot."""

    firsts: Int64[Tensor, " g"]

    def __init__(self, vocab_sizes: Sequence[int], width: int) -> None:
        super().__init__()
        firsts = [sum(vocab_sizes[:slot]) for slot in range(len(vocab_sizes))]
        self.register_buffer("firsts", torch.tensor(firsts), persistent=False)
        self.table = nn.Embedding(sum(vocab_sizes), width)

    @override
    def forward(self, ids: Int64[Tensor, "b n g"]) -> Float[Tensor, "b n g d"]:
        return self.table(ids + self.firsts)


class ParallelHead(TokenHead):
    """Slots that are independent of each other given all tokens before: a softmax for each, as in ImageFolder.

    Args:
        vocab_sizes: Number of ids of each slot; the prior's builder says it.
        width: Of the trunk.

    Example:
        >>> head = ParallelHead((8, 4), width=16)
        >>> head.nats(torch.zeros(1, 3, 16), torch.zeros(1, 3, 2, dtype=torch.int64)).shape
        torch.Size([1, 3, 2])
    """

    def __init__(self, vocab_sizes: Sequence[int], width: int) -> None:
        super().__init__()
        self.vocab_sizes = tuple(vocab_sizes)
        self.draws = len(self.vocab_sizes)
        self.tables = _Tables(vocab_sizes, width)
        self.logits = nn.Linear(width, sum(vocab_sizes))

    @override
    def embed(self, ids: Int64[Tensor, "b n g"]) -> Float[Tensor, "b n d"]:
        return self.tables(ids).sum(2)

    @override
    def nats(self, hidden: Float[Tensor, "b n d"], ids: Int64[Tensor, "b n g"]) -> Float[Tensor, "b n g"]:
        slots = self.logits(hidden).float().split(self.vocab_sizes, -1)
        return torch.stack([_cross_entropy(slot, ids[..., index]) for index, slot in enumerate(slots)], -1)

    @override
    def sample(
        self,
        hidden: Float[Tensor, "b n d"],
        plain: Float[Tensor, "b n d"] | None,
        uniform: Float64[Tensor, "b n u"],
        settings: Sampling,
    ) -> tuple[Int64[Tensor, "b n g"], Float64[Tensor, "b n"]]:
        logits = guide(self.logits(hidden), None if plain is None else self.logits(plain), settings)
        drawn = [
            pick(log_probabilities(slot, settings), uniform[..., index])
            for index, slot in enumerate(logits.split(self.vocab_sizes, -1))
        ]
        ids, likely = zip(*drawn, strict=True)
        return torch.stack(ids, -1), torch.stack(likely, -1).sum(-1)


class OrderedHead(TokenHead):
    """Slots in order: a small causal transformer over the slots of a token reads those before (arXiv 2203.01941).

    RQ-Transformer draws the depths of a residual code so, FQGAN its factors.

    Args:
        vocab_sizes: Number of ids of each slot; the prior's builder says it.
        width: Of the trunk, and of the head.
        depth: Blocks of the head.
        heads: Attention heads of each block.
    """

    visible: Bool[Tensor, "g g"]

    def __init__(self, vocab_sizes: Sequence[int], width: int, depth: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.vocab_sizes = tuple(vocab_sizes)
        self.draws = len(self.vocab_sizes)
        self.tables = _Tables(vocab_sizes, width)
        self.before = _Tables(vocab_sizes[:-1], width) if len(self.vocab_sizes) > 1 else None
        self.positions = nn.Parameter(torch.randn(len(self.vocab_sizes), width) * 0.02)
        self.trunk = Transformer(width, depth, heads, BlockStyle(norm="rms", mlp="swiglu", bias=False))
        self.norm = nn.RMSNorm(width)
        self.logits = nn.ModuleList(nn.Linear(width, size) for size in self.vocab_sizes)
        slots = len(self.vocab_sizes)
        self.register_buffer("visible", torch.ones(slots, slots, dtype=torch.bool).tril(), persistent=False)

    @override
    def embed(self, ids: Int64[Tensor, "b n g"]) -> Float[Tensor, "b n d"]:
        return self.tables(ids).sum(2)

    @override
    def nats(self, hidden: Float[Tensor, "b n d"], ids: Int64[Tensor, "b n g"]) -> Float[Tensor, "b n g"]:
        said = self._slots(hidden, ids[..., :-1])  # b n g d
        parts = [
            _cross_entropy(linear(said[:, :, slot]).float(), ids[..., slot]) for slot, linear in enumerate(self.logits)
        ]
        return torch.stack(parts, -1)

    @override
    def sample(
        self,
        hidden: Float[Tensor, "b n d"],
        plain: Float[Tensor, "b n d"] | None,
        uniform: Float64[Tensor, "b n u"],
        settings: Sampling,
    ) -> tuple[Int64[Tensor, "b n g"], Float64[Tensor, "b n"]]:
        ids = torch.zeros(*hidden.shape[:2], 0, dtype=torch.int64, device=hidden.device)
        likely = torch.zeros(hidden.shape[:2], dtype=torch.float64, device=hidden.device)
        for slot, linear in enumerate(self.logits):  # a token has few slots: they are computed anew for each
            told = linear(self._slots(hidden, ids)[:, :, slot])
            without = None if plain is None else linear(self._slots(plain, ids)[:, :, slot])
            drawn, log = pick(log_probabilities(guide(told, without, settings), settings), uniform[..., slot])
            ids, likely = torch.cat([ids, drawn[..., None]], -1), likely + log
        return ids, likely

    def _slots(self, hidden: Float[Tensor, "b n d"], before: Int64[Tensor, "b n less"]) -> Float[Tensor, "b n more d"]:
        """What the head says of the slots up to the one after those that are given."""
        b, n, _ = hidden.shape
        slots = [hidden[:, :, None]]  # b n 1 d
        if self.before is not None and before.shape[-1]:
            slots.append(self.before.table(before + self.before.firsts[: before.shape[-1]]))
        tokens = torch.cat(slots, 2) + self.positions[: before.shape[-1] + 1]
        count = tokens.shape[2]
        said = self.norm(self.trunk(tokens.flatten(0, 1), self.visible[:count, :count]))  # (b n) g d
        return said.unflatten(0, (b, n))


class BitsHead(TokenHead):
    """The bits of binary codes, independent of each other given all tokens before, where 2^18 logits are too many.

    A token goes in as its bits, -1 or 1, by one linear map, and a logit says of each whether it is 1 (the classifier of
    Infinity, arXiv 2412.04431; BAR and MaskBit read bits in the same way). Bit 0 of a slot is its id's least
    significant one.

    Args:
        vocab_sizes: Number of ids of each slot, a power of two; the prior's builder says it.
        width: Of the trunk.

    Raises:
        ValueError: If a vocabulary is no power of two.

    Example:
        >>> BitsHead((2**18,), width=16).draws
        18
    """

    def __init__(self, vocab_sizes: Sequence[int], width: int) -> None:
        super().__init__()
        self.bits = [size.bit_length() - 1 for size in vocab_sizes]
        if any(2**bits != size or not bits for bits, size in zip(self.bits, vocab_sizes, strict=True)):
            raise ValueError(
                f"vocab_sizes must be powers of two for a head of bits, got {list(vocab_sizes)}; take another head"
            )
        self.draws = sum(self.bits)
        self.inputs = nn.Linear(self.draws, width)
        self.logits = nn.Linear(width, self.draws)

    @override
    def embed(self, ids: Int64[Tensor, "b n g"]) -> Float[Tensor, "b n d"]:
        return self.inputs(2 * self._bits_of(ids).to(self.inputs.weight.dtype) - 1)

    @override
    def nats(self, hidden: Float[Tensor, "b n d"], ids: Int64[Tensor, "b n g"]) -> Float[Tensor, "b n g"]:
        logits = self.logits(hidden).float()
        each = F.binary_cross_entropy_with_logits(logits, self._bits_of(ids).to(logits.dtype), reduction="none")
        return torch.stack([slot.sum(-1) for slot in each.split(self.bits, -1)], -1)

    @override
    def sample(
        self,
        hidden: Float[Tensor, "b n d"],
        plain: Float[Tensor, "b n d"] | None,
        uniform: Float64[Tensor, "b n u"],
        settings: Sampling,
    ) -> tuple[Int64[Tensor, "b n g"], Float64[Tensor, "b n"]]:
        logits = guide(self.logits(hidden), None if plain is None else self.logits(plain), settings)
        logits = logits.double() / settings.temperature
        bits = uniform.to(logits.device) < logits.sigmoid()
        likely = F.logsigmoid(torch.where(bits, logits, -logits)).sum(-1)
        return self._ids_of(bits), likely

    @override
    def require(self, settings: Sampling) -> None:
        if settings.top_k or settings.top_p < 1:
            raise ValueError("top_k and top_p must be 0 and 1 for a head of bits, which has no logit for a whole id")

    def _bits_of(self, ids: Int64[Tensor, "b n g"]) -> Int64[Tensor, "b n u"]:
        each = [
            ids[..., slot, None] >> torch.arange(bits, device=ids.device) & 1 for slot, bits in enumerate(self.bits)
        ]
        return torch.cat(each, -1)

    def _ids_of(self, bits: Tensor) -> Int64[Tensor, "b n g"]:
        places = [2 ** torch.arange(count, device=bits.device) for count in self.bits]
        slots = bits.long().split(self.bits, -1)
        return torch.stack([(slot * place).sum(-1) for slot, place in zip(slots, places, strict=True)], -1)


def _cross_entropy(logits: Float[Tensor, "b n v"], ids: Int64[Tensor, "b n"]) -> Float[Tensor, "b n"]:
    return F.cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction="none").view_as(ids)
