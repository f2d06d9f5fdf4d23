"""Nested dropout: images keep only their first few tokens, so that the first carry the most (arXiv 1402.0915)."""

from typing import Literal, get_args

import torch
from jaxtyping import Int64
from torch import Tensor
from typing_extensions import override

from imtok.quantizers.base import Quantizer
from imtok.regularizers.base import Regularizer
from imtok.types import Quantized

Law = Literal["uniform", "powers_of_two", "uniform_to_power_of_two"]
Scope = Literal["sample", "batch", "global"]


class NestedDropout(Regularizer):
    """Decodes images from the first few of their tokens, how many of them drawn at random.

    The quantizer's losses and statistics are those of all tokens. With one length for the batch the rest is cut off, so
    that the decoder runs on a shorter sequence; with a length for each image the rest is not kept: latents and ids are
    zero there, ``keep`` is False, and what takes their place is the decoder's business. Either way no gradient of the
    image reaches what was dropped.

    Args:
        law: "uniform" over ``fewest``, ``fewest + stride``, ... (One-D-Piece, arXiv 2501.10064); "powers_of_two",
            uniform over those of 1, 2, 4, ... that lie in the range, and its end; "uniform_to_power_of_two", uniform,
            then rounded up to a power of two, so that half of the images keep all (both FlexTok, arXiv 2502.13967).
        fewest: The fewest tokens that are drawn, at least 1.
        most: The most tokens that are drawn; null = all latents of the encoder.
        stride: Between the lengths of "uniform"; 1 with the other laws.
        scope: What shares one draw. "sample" = nothing: an image each; "batch" = the images of a micro-batch on one
            rank; "global" = all images of an optimiser step, on all ranks.
        redundant: How many of the encoder's last latents never reach the decoder. They take part in the draw, so that
            the latents before them are dropped less often (ReTok, arXiv 2601.01535).
        probability: Share of the draws that drop anything, in [0, 1].
        start_step: Optimiser step at which dropping starts. Redundant latents stay away from the decoder before too.
        seed: Of the draws of scope "global", which must not differ between ranks.

    Raises:
        ValueError: If an argument is out of range; in ``forward``, if there are fewer latents than asked for, or tokens
            do not stand for latents one by one (multi-scale quantizers).

    Example:
        >>> from imtok.quantizers.fsq import FSQ
        >>> quantizer = FSQ([8, 5, 5, 5])
        >>> quantized = quantizer(torch.randn(3, 16, 4))
        >>> dropped = NestedDropout("powers_of_two")(quantized, quantizer, 0, torch.Generator().manual_seed(0))
        >>> dropped.keep.sum(1)
        tensor([16, 16,  8])
    """

    def __init__(
        self,
        law: Law = "uniform",
        fewest: int = 1,
        most: int | None = None,
        stride: int = 1,
        scope: Scope = "sample",
        redundant: int = 0,
        probability: float = 1.0,
        start_step: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value, choices in (("law", law, get_args(Law)), ("scope", scope, get_args(Scope))):
            if value not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
        if fewest < 1 or (most is not None and most < fewest):
            raise ValueError(f"fewest must be at least 1 and at most most, got fewest {fewest} and most {most}")
        if stride < 1 or (stride > 1 and law != "uniform"):
            raise ValueError(f"stride must be at least 1, and 1 unless the law is uniform, got {stride} for {law}")
        if redundant < 0 or start_step < 0:
            raise ValueError(f"redundant and start_step must not be negative, got {redundant} and {start_step}")
        if not 0 <= probability <= 1:
            raise ValueError(f"probability must be in [0, 1], got {probability}")
        self.law: Law = law
        self.fewest = fewest
        self.most = most
        self.stride = stride
        self.scope: Scope = scope
        self.redundant = redundant
        self.probability = probability
        self.start_step = start_step
        self.seed = seed

    @override
    def forward(self, quantized: Quantized, quantizer: Quantizer, step: int, generator: torch.Generator) -> Quantized:
        images, tokens, _ = quantized.ids.shape
        if tokens != quantized.latents.shape[1]:
            raise ValueError(
                f"tokens must stand for latents one by one to be dropped, got {tokens} tokens for "
                f"{quantized.latents.shape[1]} latents of {type(quantizer).__name__}; give another regularizer"
            )
        if self.redundant >= tokens:
            raise ValueError(f"redundant must be fewer than the {tokens} latents, got {self.redundant}")
        lengths = self.lengths(images, tokens, step, generator).clamp(max=tokens - self.redundant)
        if self.scope != "sample":
            return _cut(quantized, int(lengths[0]))
        needed = _cut(quantized, tokens - self.redundant)
        return needed if step < self.start_step else keep_first(needed, lengths)

    def lengths(self, images: int, tokens: int, step: int, generator: torch.Generator) -> Int64[Tensor, " b"]:
        """How many of ``tokens`` each image keeps, before redundant ones are left out."""
        most = tokens if self.most is None else self.most
        if not self.fewest <= most <= tokens:
            raise ValueError(
                f"fewest and most must be at most the {tokens} latents of the encoder, got fewest {self.fewest} and "
                f"most {self.most}"
            )
        if step < self.start_step:
            return torch.full((images,), tokens)
        if self.scope == "global":  # the generator handed in differs between ranks, and micro-batches have one each
            generator = torch.Generator().manual_seed(hash((self.seed, step)) % 2**63)
        draws = images if self.scope == "sample" else 1
        lengths = draw_lengths(self.law, draws, self.fewest, most, self.stride, generator)
        dropped = torch.rand(draws, generator=generator) < self.probability
        return torch.where(dropped, lengths, tokens).expand(images)


def draw_lengths(
    law: Law, count: int, fewest: int, most: int, stride: int, generator: torch.Generator
) -> Int64[Tensor, " count"]:
    """Draw ``count`` lengths in [fewest, most]. Arguments as of :class:`NestedDropout`."""
    if law == "powers_of_two":
        powers = [2**exponent for exponent in range(most.bit_length()) if fewest <= 2**exponent < most]
        choices = torch.tensor([*powers, most])
    else:
        choices = torch.arange(fewest, most + 1, stride)
    drawn = choices[torch.randint(len(choices), (count,), generator=generator)]
    if law == "uniform_to_power_of_two":
        powers = 2 ** torch.arange(most.bit_length() + 1)
        drawn = powers[torch.searchsorted(powers, drawn)].clamp(max=most)
    return drawn


def _cut(quantized: Quantized, length: int) -> Quantized:
    keep = None if quantized.keep is None else quantized.keep[:, :length]
    latents, ids = quantized.latents[:, :length], quantized.ids[:, :length]
    return Quantized(latents, ids, keep, quantized.losses, quantized.stats)


def keep_first(quantized: Quantized, lengths: Int64[Tensor, " b"]) -> Quantized:
    """Keep the first tokens of each image, and set the others to zero. Losses and statistics count all tokens."""
    device = quantized.latents.device
    keep = torch.arange(quantized.latents.shape[1], device=device) < lengths.to(device)[:, None]
    keep = keep if quantized.keep is None else keep & quantized.keep
    latents = quantized.latents.masked_fill(~keep[..., None], 0)
    ids = quantized.ids.masked_fill(~keep[..., None], 0)
    return Quantized(latents, ids, keep, quantized.losses, quantized.stats)
