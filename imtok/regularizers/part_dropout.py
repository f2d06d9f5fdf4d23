"""Nested masking of the parts of a product quantizer (MGVQ, arXiv 2507.07997)."""

from collections.abc import Sequence

import torch
from typing_extensions import override

from imtok.quantizers.base import Quantizer
from imtok.regularizers.base import Regularizer
from imtok.types import Quantized


class PartDropout(Regularizer):
    """Some images are decoded from the first parts alone, so that the first ones carry the most.

    The channels of all later parts become zero and get no gradient. Ids and losses stay those of all parts.

    Args:
        shares: The share of the images that keep one part, two, ..., all of them; together 1.

    Raises:
        ValueError: If a share is negative or they are not 1 together; in ``forward``, if the quantizer has another
            number of parts.

    Example:
        >>> from imtok.quantizers.product import Product
        >>> from imtok.quantizers.vq import VQ
        >>> quantizer = Product([VQ(4, 64), VQ(4, 64)])
        >>> quantized = quantizer(torch.randn(1, 16, 8))
        >>> kept = PartDropout([1.0, 0.0])(quantized, quantizer, 0, torch.Generator()).latents
        >>> torch.equal(kept[..., :4], quantized.latents[..., :4]), kept[..., 4:].any().item()
        (True, False)
    """

    def __init__(self, shares: Sequence[float]) -> None:
        super().__init__()
        if not shares or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
            raise ValueError(f"shares must be at least 0 and 1 together, got {list(shares)}")
        self.shares = torch.tensor(list(shares))

    @override
    def forward(self, quantized: Quantized, quantizer: Quantizer, step: int, generator: torch.Generator) -> Quantized:
        widths = torch.tensor(quantizer.part_dims)
        if len(widths) != len(self.shares):
            raise ValueError(
                f"shares must have a number for each of the quantizer's {len(widths)} parts, got {len(self.shares)}"
            )
        images = len(quantized.latents)
        kept = 1 + torch.multinomial(self.shares, images, replacement=True, generator=generator)
        part = torch.repeat_interleave(torch.arange(len(widths)), widths)
        masked = (part >= kept[:, None])[:, None].to(quantized.latents.device)
        latents = quantized.latents.masked_fill(masked, 0)
        return Quantized(latents, quantized.ids, quantized.keep, quantized.losses, quantized.stats)
