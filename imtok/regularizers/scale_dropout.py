"""Scale dropout: images that keep only the first scales of a multi-scale quantizer, or go without one of them."""

import copy
from dataclasses import replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from typing_extensions import override

from imtok.quantizers.base import Quantizer
from imtok.quantizers.multiscale import MultiScale
from imtok.quantizers.product import Product
from imtok.regularizers.base import Regularizer
from imtok.regularizers.slot_dropout import PrefixDropout
from imtok.types import Quantized


class ScaleDropout(PrefixDropout):
    """Some images keep only the first scales, coarse ones, of a multi-scale quantizer or of a product of them.

    ImageFolder (arXiv 2410.01756).

    Args:
        probability: Share of the images that lose scales, in [0, 1].
        fewest: The fewest scales that such an image keeps; it keeps up to all of them, each number as often.

    Raises:
        ValueError: If an argument is out of range; in ``forward``, if the quantizer has no scales, branches of
            different scales, or fewer than ``fewest``.

    Example:
        >>> import torch
        >>> from imtok.quantizers.vq import VQ
        >>> quantizer = MultiScale(VQ(dim=4, codebook_size=64, normalize=False), sizes=[1, 2, 3, 4])
        >>> quantized = quantizer(torch.randn(8, 16, 4))
        >>> dropped = ScaleDropout(probability=1.0)(quantized, quantizer, 0, torch.Generator().manual_seed(0))
        >>> torch.equal(dropped.latents, quantized.latents), torch.equal(dropped.ids, quantized.ids)
        (False, True)
    """

    @override
    def levels(self, quantizer: Quantizer) -> int:
        return len(_scale_tokens(quantizer))

    @override
    def decode(self, quantizer: Quantizer, ids: Int64[Tensor, "b t g"], count: int) -> Float[Tensor, "b n d"]:
        return quantizer.look_up(ids[:, : sum(_scale_tokens(quantizer)[:count])])


def _scale_tokens(quantizer: Quantizer) -> tuple[int, ...]:
    """Number of tokens of each scale."""
    if isinstance(quantizer, MultiScale):
        return quantizer.scale_tokens
    if isinstance(quantizer, Product):
        scales = {_scale_tokens(part) for part in quantizer.parts if isinstance(part, Quantizer)}
        if len(scales) == 1:
            return scales.pop()
    raise ValueError(f"the quantizer must have scales, the same in all branches, got {type(quantizer).__name__}")


class OneScaleDropout(Regularizer):
    """Now and then one scale of a multi-scale quantizer is left out, and the scales behind it take up what it leaves.

    The coarsest scale always stays. One draw counts for a micro-batch on one rank. Latents, losses and statistics are
    those of the scales that are left; ids stay those of all scales (TokenFlow, arXiv 2412.03069).

    Args:
        probability: Share of the micro-batches that go without a scale, in [0, 1].

    Raises:
        ValueError: If ``probability`` is out of range; in ``forward``, if the quantizer has no scales or only one, or
            scales the latents themselves to unit length.

    Example:
        >>> import torch
        >>> from imtok.quantizers.vq import VQ
        >>> quantizer = MultiScale(VQ(dim=4, codebook_size=64, normalize=False), sizes=[1, 2, 4], convolutions=0)
        >>> quantized = quantizer(torch.randn(8, 16, 4))
        >>> left = OneScaleDropout(probability=1.0)(quantized, quantizer, 0, torch.Generator().manual_seed(0))
        >>> torch.equal(left.latents, quantized.latents), torch.equal(left.ids, quantized.ids)
        (False, True)
    """

    def __init__(self, probability: float = 0.1) -> None:
        super().__init__()
        if not 0 <= probability <= 1:
            raise ValueError(f"probability must be in [0, 1], got {probability}")
        self.probability = probability

    @override
    def forward(self, quantized: Quantized, quantizer: Quantizer, step: int, generator: torch.Generator) -> Quantized:
        if not isinstance(quantizer, MultiScale) or len(quantizer.sizes) < 2 or quantizer.normalize:
            raise ValueError(
                "the quantizer must have scales, two or more, and leave the length of latents as it is, got "
                f"{type(quantizer).__name__}"
            )
        drawn, place = torch.rand(2, generator=generator).tolist()
        if drawn >= self.probability or quantized.encoded is None:
            return quantized
        left_out = 1 + int(place * (len(quantizer.sizes) - 1))
        others = copy.copy(quantizer)  # with the same weights
        others.sizes = tuple(size for scale, size in enumerate(quantizer.sizes) if scale != left_out)
        return replace(others(quantized.encoded), ids=quantized.ids)
