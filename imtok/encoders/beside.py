"""The encoder of TokenFlow (arXiv 2412.03069): a transformer for meaning beside a convolutional net for pixels."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from imtok.encoders.base import Encoder
from imtok.types import Condition, Latents


class SemanticPixelEncoder(Encoder):
    """Two nets read the image; their latents stand side by side in channels, those of the meaning first.

    Args:
        semantic: The net for meaning, in TokenFlow CLIP's image encoder.
        pixels: The net for pixels, with as many latents.
        pixel_share: Share of the latents' channels that ``pixels`` makes, in (0, 1), rounded to whole channels;
            ``semantic`` makes the others. Each makes one at least. The builder tells both their width by it.

    Raises:
        ValueError: If ``pixel_share`` is out of range, or there is one channel alone; in ``forward`` and
            ``num_latents``, if the two make other numbers of latents.

    Example:
        >>> from imtok.encoders.cnn import CNNEncoder
        >>> from imtok.encoders.vit import ViTEncoder
        >>> encoder = SemanticPixelEncoder(
        ...     ViTEncoder(8, image_size=16, patch_size=4, width=16, depth=1, heads=2),
        ...     CNNEncoder(2, channels=16, multipliers=(1, 1, 2)),
        ... )
        >>> encoder(torch.rand(1, 3, 16, 16) * 2 - 1).values.shape
        torch.Size([1, 16, 10])
    """

    def __init__(self, semantic: Encoder, pixels: Encoder, pixel_share: float = 0.2) -> None:
        super().__init__()
        _check_share(pixel_share)
        self.semantic = semantic
        self.pixels = pixels

    @classmethod
    def tell_parts(cls, provided: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """What the builder tells both nets: how many of the latents' channels are theirs.

        Args:
            provided: What the builder tells the whole, ``out_dim`` among it.
            given: The settings of the whole, plain values.
        """
        share, width = given.get("pixel_share", 0.2), provided["out_dim"]
        _check_share(share)
        if width < 2:
            raise ValueError(f"the latents' width must be at least 2 to hold meaning and pixels, got {width}")
        pixels = min(max(round(width * share), 1), width - 1)
        return {"semantic": {**provided, "out_dim": width - pixels}, "pixels": {**provided, "out_dim": pixels}}

    @override
    def forward(
        self, image: Float[Tensor, "b 3 h w"], length: int | None = None, condition: Condition | None = None
    ) -> Latents:
        self.num_latents((image.shape[-2], image.shape[-1]))
        return Latents(torch.cat([self.semantic(image).values, self.pixels(image).values], -1))

    @override
    def num_latents(self, size: tuple[int, int]) -> int:
        semantic, pixels = self.semantic.num_latents(size), self.pixels.num_latents(size)
        if semantic != pixels:
            raise ValueError(f"semantic and pixels must make as many latents of an image, got {semantic} and {pixels}")
        return semantic


def _check_share(share: float) -> None:
    if not 0 < share < 1:
        raise ValueError(f"pixel_share must be in (0, 1), got {share}")
