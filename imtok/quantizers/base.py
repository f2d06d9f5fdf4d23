"""The contract that every quantizer keeps, and the numerics that all of them share."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import wraps
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor, nn
from typing_extensions import override

from imtok.nn.exact import exact, exact_backward, exactly
from imtok.quantizers.estimators import straight_through as straight_through
from imtok.quantizers.ranks import kept_per_rank
from imtok.types import Quantized

_CHECKS = "checks_ids"  # attribute of a ``decode`` that does


class Quantizer(nn.Module, ABC):
    """Maps latents to token ids and back.

    ``forward`` takes care of what no method may get wrong: at least float32 with autocast off, gradients too, and
    latents that are not kept (they take part in nothing and come out as zero). A method only writes ``quantize`` and
    ``decode``.

    Attributes:
        dim: Width of the latents. The decoder is built to it, and the encoder unless ``in_dim`` says otherwise.
        vocab_sizes: Number of ids in each slot.
        num_latents: The only number of latents per image that it takes; None = any.
        generator: Where codes are drawn from during a call of ``forward``; None = torch's global generator.
    """

    dim: int
    vocab_sizes: tuple[int, ...]
    num_latents: int | None = None
    generator: torch.Generator | None = None
    _decode: Callable[..., Tensor]  # without the check

    def __init_subclass__(cls, **settings: Any) -> None:
        """Let ``decode`` refuse ids that are none, whoever wrote it, also in a class beside this one."""
        super().__init_subclass__(**settings)
        if not getattr(cls.decode, "__isabstractmethod__", False) and not getattr(cls.decode, _CHECKS, False):
            cls._decode = cls.decode
            cls.decode = _checked(cls.decode)  # type: ignore[method-assign]

    @abstractmethod
    def quantize(self, latents: Float[Tensor, "b n d"], keep: Bool[Tensor, "b n"] | None) -> Quantized:
        """Quantize float32 or float64 latents. Writes no buffer; draws random numbers only where ``stochastic``.

        Args:
            latents: The encoder's latents; zero where they are not kept.
            keep: True = transmitted; losses and statistics count only these. None = all of them.
        """

    @abstractmethod
    def decode(self, ids: Int64[Tensor, "b t g"], slots: int | None = None) -> Float[Tensor, "b n d"]:
        """The latents of ``ids``: exactly what ``forward`` returned with them, unless it is :attr:`noisy` in training.

        Args:
            ids: Token ids.
            slots: Use only the first so many slots; None = all of them.

        Raises:
            ValueError: If an id lies outside its slot's vocabulary; checked before a subclass's own ``decode`` runs.
        """

    def look_up(self, ids: Int64[Tensor, "b t g"], slots: int | None = None) -> Float[Tensor, "b n d"]:
        """As :meth:`decode`, of ids that were just chosen: on a GPU a check would wait for them."""
        return self._decode(ids, slots)

    def check_ids(self, ids: Tensor, slots: int | None = None) -> None:
        """Refuse ids outside their slot's vocabulary, which tables and digits would take for others.

        Args:
            ids: Token ids.
            slots: Check only the first so many slots, which then may be all there are; None = all.

        Raises:
            ValueError: If there is one, or a slot is missing, or they are no whole numbers ``b t g``.
        """
        if ids.ndim != 3:
            raise ValueError(f"ids must have three axes: images, tokens and slots, got shape {tuple(ids.shape)}")
        check_ids(ids, self.vocab_sizes, slots)

    @abstractmethod
    def codebook(self) -> list[Float[Tensor, "v d"]]:
        """A table per slot, full width and zero outside its channels: latents are the sum of the look-ups."""

    def soft_decode(self, probabilities: Sequence[Float[Tensor, "b t _"]]) -> Float[Tensor, "b n d"]:
        """The latents expected under a distribution over each slot's ids: a soft look-up (AiT, arXiv 2301.02229).

        Affine in the probabilities, and :meth:`decode` where they are one-hot.

        Args:
            probabilities: A tensor per slot, as wide as its vocabulary; each row sums to 1.
        """
        if len(probabilities) != len(self.vocab_sizes) or not probabilities:
            raise ValueError(
                f"probabilities must be a tensor for each of {len(self.vocab_sizes)} slots, got {len(probabilities)}"
            )
        tables = self.codebook()
        with exactly(tables[0].device):
            looked_up = [rows.to(table.dtype) @ table for rows, table in zip(probabilities, tables, strict=True)]
        latents = torch.stack(looked_up).sum(0)
        exact_backward([latents], probabilities)
        return latents

    @abstractmethod
    def neighbours(self, ids: Int64[Tensor, "b t g"], count: int) -> Int64[Tensor, "b t g count"]:
        """The ``count`` nearest codes of the same slot, nearest first, so that each id comes first itself.

        Raises:
            ValueError: If ``count`` exceeds a slot's vocabulary.
        """

    def start(self, latents: Float[Tensor, "m d"]) -> None:
        """Fit the codebook to the first latents (of all ranks), once, before step 0. Nothing to do by default."""

    def update(self, stats: dict[str, Tensor]) -> None:
        """Apply statistics summed over micro-batches and ranks, once per optimiser step. Nothing by default."""

    def num_tokens(self, num_latents: int) -> int:
        """Tokens (``t``) for so many latents (``n``)."""
        return num_latents

    @property
    def stochastic(self) -> bool:
        """Whether codes are drawn at random in training: by itself, or by a quantizer inside it."""
        return any(part.stochastic for part in self.modules() if part is not self and isinstance(part, Quantizer))

    @property
    def noisy(self) -> bool:
        """Whether latents have noise in training, and so are near :meth:`decode` of their ids: here or inside it."""
        return any(part.noisy for part in self.modules() if part is not self and isinstance(part, Quantizer))

    @property
    def in_dim(self) -> int:
        """Width of what it takes from the encoder, which is built to it: ``dim``, unless a quantizer asks for more."""
        return self.dim

    @property
    def part_dims(self) -> tuple[int, ...]:
        """Widths of the channel groups that stand for different things: the targets of alignment losses."""
        return (self.dim,)

    @property
    def bits_per_token(self) -> float:
        """Nominal bits of one token: the sum over slots of log2 of the vocabulary."""
        return sum((math.log2(size) for size in self.vocab_sizes), 0.0)

    @override
    def forward(
        self,
        latents: Float[Tensor, "b n _"],
        keep: Bool[Tensor, "b n"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Quantized:
        """Quantize, with gradients to ``latents``.

        Args:
            latents: The encoder's latents, ``in_dim`` wide, any float type.
            keep: True = transmitted; None = all of them.
            generator: Where a quantizer draws codes from, and each quantizer inside it, on the device of the latents;
                None = torch's global generator, which a run seeds anew at each step.
        """
        if latents.shape[-1] != self.in_dim:
            raise ValueError(f"latents must be {self.in_dim} wide for {type(self).__name__}, got {latents.shape[-1]}")
        with exactly(latents.device):
            given = exact(latents)
            if keep is not None:
                given = given.masked_fill(~keep[..., None], 0)
            with _drawing_from(generator, self):
                quantized = self.quantize(given, keep)
        exact_backward([quantized.latents, *(loss.value for loss in quantized.losses.values())], [latents])
        # The layout of a table look-up, as `decode` returns it: another one takes the decoder through other kernels.
        codes, ids = quantized.latents.to(latents.dtype).contiguous(), quantized.ids
        if keep is not None:
            codes = codes.masked_fill(~keep[..., None], 0)
            ids = ids.masked_fill(~keep[..., None], 0) if ids.shape[1] == keep.shape[1] else ids
        return replace(quantized, latents=codes, ids=ids, keep=keep, encoded=latents)

    @override
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Quantizer":
        """Follow a move to another device or to float64, but keep tables and sums out of half precision."""

        def keep_exact(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            halved = moved.is_floating_point() and moved.element_size() < tensor.element_size()
            return tensor.to(moved.device) if halved else moved

        return super()._apply(keep_exact, recurse)

    @override
    def extra_repr(self) -> str:
        return f"dim={self.dim}, vocab_sizes={self.vocab_sizes}"


def check_ids(ids: Shaped[Tensor, "*shape g"], vocab_sizes: Sequence[int], slots: int | None = None) -> None:
    """Raise ValueError unless every id (last axis: slots) lies in its slot's vocabulary.

    Ids of fewer than 32 bits are refused as well: sums of them that make a code would overflow.

    Args:
        ids: Token ids.
        vocab_sizes: Number of ids of each slot.
        slots: Check only the first so many; None = all.
    """
    if ids.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"ids must be int64, got {ids.dtype}; give ids.long()")
    if ids.shape[-1] != len(vocab_sizes) and (slots is None or ids.shape[-1] < min(slots, len(vocab_sizes))):
        raise ValueError(f"ids must have {len(vocab_sizes)} slots in their last axis, got shape {tuple(ids.shape)}")
    sizes = torch.tensor(vocab_sizes[:slots], device=ids.device, dtype=torch.long)
    used = ids[..., : len(sizes)]
    outside = (used < 0) | (used >= sizes)
    if not outside.any():
        return
    slot = int(outside.flatten(0, -2).any(0).nonzero()[0])
    column = used[..., slot]
    raise ValueError(
        f"ids of slot {slot} must lie in [0, {vocab_sizes[slot]}), got {int(column.min())} to {int(column.max())}"
    )


@contextmanager
def _drawing_from(generator: torch.Generator | None, quantizer: Quantizer) -> Iterator[None]:
    if generator is None:
        yield
        return
    parts = [part for part in quantizer.modules() if isinstance(part, Quantizer)]
    for part in parts:
        part.generator = generator
    try:
        yield
    finally:
        for part in parts:
            part.generator = None


def _checked(decode: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @wraps(decode)
    def checked(self: Quantizer, ids: Tensor, slots: int | None = None) -> Tensor:
        self.check_ids(ids, slots)
        return decode(self, ids.long(), slots)

    setattr(checked, _CHECKS, True)
    return checked


def token_mean(values: Float[Tensor, "b n"], keep: Bool[Tensor, "b n"] | None) -> Float[Tensor, ""]:
    """The mean over kept tokens of all ranks, as DDP's averaging of gradients wants it."""
    if keep is None:
        return values.mean()
    return (values * keep).sum() / kept_per_rank(keep, values.dtype)
