"""What an image costs: tokens per image and bits per pixel."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int64
from torch import Tensor
from torchmetrics import Metric
from typing_extensions import override


class Rate(Metric):
    """Transmitted tokens per image and per pixel, exact for variable lengths and sizes.

    Bits per pixel are tokens per pixel times bits per token: the nominal ones of the quantizer (log2 of the
    vocabulary), or the entropy of the ids, which is what an ideal entropy coder without context would spend. Neither
    counts what it takes to send the length of a variable-length image.

    Args:
        **settings: Of :class:`torchmetrics.Metric`.

    Example:
        >>> metric = Rate()
        >>> metric.update(torch.zeros(2, 256, 1, dtype=torch.int64), size=(256, 256))
        >>> rate = metric.compute()
        >>> rate["tokens_per_image"], rate["tokens_per_pixel"] * 14  # 2^14 codes
        (256.0, 0.0546875)
    """

    full_state_update = False
    images: Tensor
    tokens: Tensor
    pixels: Tensor

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name in ("images", "tokens", "pixels"):
            self.add_state(name, torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    @override
    def update(self, ids: Int64[Tensor, "b t g"], size: Sequence[int], keep: Bool[Tensor, "b t"] | None = None) -> None:
        """Count images in.

        Args:
            ids: Token ids.
            size: Height and width of the images, in pixels.
            keep: True = transmitted; None = all are.
        """
        self.images += len(ids)
        self.tokens += ids.shape[0] * ids.shape[1] if keep is None else keep.sum()
        self.pixels += len(ids) * size[0] * size[1]

    @override
    def compute(self) -> dict[str, float]:
        """``images``, ``tokens_per_image`` and ``tokens_per_pixel``; 0 without any image."""
        tokens = self.tokens.item()
        return {
            "images": float(self.images.item()),
            "tokens_per_image": tokens / max(self.images.item(), 1),
            "tokens_per_pixel": tokens / max(self.pixels.item(), 1),
        }
