"""Scale dropout: some images keep only the first scales of a multi-scale quantizer (ImageFolder, arXiv 2410.01756)."""

from jaxtyping import Float, Int64
from torch import Tensor
from typing_extensions import override

from imtok.quantizers.base import Quantizer
from imtok.quantizers.multiscale import MultiScale
from imtok.quantizers.product import Product
from imtok.regularizers.slot_dropout import PrefixDropout


class ScaleDropout(PrefixDropout):
    """Some images keep only the first scales, coarse ones, of a multi-scale quantizer or of a product of them.

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
