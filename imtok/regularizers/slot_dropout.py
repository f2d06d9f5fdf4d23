"""Quantizer dropout: some images keep only the first slots of each token (SoundStream, arXiv 2107.03312)."""

from abc import abstractmethod

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from typing_extensions import override

from imtok.quantizers.base import Quantizer, straight_through
from imtok.regularizers.base import Regularizer
from imtok.types import Quantized


class PrefixDropout(Regularizer):
    """Decodes some images from the first few of their levels, so that the first levels carry the most.

    How many levels an image keeps is drawn for each image, on each rank by its own generator. Ids stay as they are,
    valid all of them: only what the decoder sees changes. Latents keep the gradient that they had, straight through.
    Losses are the quantizer's, over all levels.

    Args:
        probability: Share of the images that lose levels, in [0, 1].
        fewest: The fewest levels that such an image keeps; it keeps up to all of them, each number as often.

    Raises:
        ValueError: If an argument is out of range; in ``forward``, if the quantizer has fewer levels than ``fewest``.
    """

    def __init__(self, probability: float = 0.1, fewest: int = 1) -> None:
        super().__init__()
        if not 0 <= probability <= 1 or fewest < 1:
            raise ValueError(
                f"probability must be in [0, 1] and fewest at least 1, got probability {probability} and {fewest}"
            )
        self.probability = probability
        self.fewest = fewest

    @abstractmethod
    def levels(self, quantizer: Quantizer) -> int:
        """How many levels the quantizer's ids have."""

    @abstractmethod
    def decode(self, quantizer: Quantizer, ids: Int64[Tensor, "b t g"], count: int) -> Float[Tensor, "b n d"]:
        """The latents of the first ``count`` levels."""

    @override
    def forward(self, quantized: Quantized, quantizer: Quantizer, step: int, generator: torch.Generator) -> Quantized:
        levels = self.levels(quantizer)
        if levels < self.fewest:
            raise ValueError(f"fewest must be at most the quantizer's {levels} levels, got {self.fewest}")
        images = len(quantized.ids)
        kept = torch.randint(self.fewest, levels + 1, (images,), generator=generator)
        chosen = torch.rand(images, generator=generator) < self.probability
        kept = torch.where(chosen, kept, levels)
        latents = quantized.latents.clone()
        for count in kept[kept < levels].unique().tolist():  # drawn on the CPU: nothing waits for the device
            rows = (kept == count).to(latents.device)
            shorter = self.decode(quantizer, quantized.ids[rows], count).to(latents.dtype)
            if quantized.keep is not None:
                shorter = shorter.masked_fill(~quantized.keep[rows][..., None], 0)
            latents[rows] = straight_through(shorter, quantized.latents[rows])
        return Quantized(latents, quantized.ids, quantized.keep, quantized.losses, quantized.stats)


class SlotDropout(PrefixDropout):
    """Some images keep only the first slots of each token: depths of a residual quantizer, parts of a product.

    Args:
        probability: Share of the images that lose slots, in [0, 1].
        fewest: The fewest slots that such an image keeps; it keeps up to all of them, each number as often.

    Raises:
        ValueError: If an argument is out of range; in ``forward``, if the quantizer has fewer slots than ``fewest``.

    Example:
        >>> from imtok.quantizers.residual import Residual
        >>> from imtok.quantizers.vq import VQ
        >>> quantizer = Residual([VQ(dim=4, codebook_size=64, normalize=False)], depth=8)
        >>> quantized = quantizer(torch.randn(2, 16, 4))
        >>> dropped = SlotDropout(probability=1.0)(quantized, quantizer, 0, torch.Generator().manual_seed(0))
        >>> torch.equal(dropped.latents, quantized.latents), torch.equal(dropped.ids, quantized.ids)
        (False, True)
    """

    @override
    def levels(self, quantizer: Quantizer) -> int:
        return len(quantizer.vocab_sizes)

    @override
    def decode(self, quantizer: Quantizer, ids: Int64[Tensor, "b t g"], count: int) -> Float[Tensor, "b n d"]:
        return quantizer.look_up(ids, slots=count)
