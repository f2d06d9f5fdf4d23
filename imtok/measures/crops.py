"""The crop of the tokenizers that do not follow ADM: resize the short side, then cut out the centre."""

import numpy as np
from jaxtyping import Real
from PIL import Image
from torch import Tensor
from typing_extensions import override

from imtok.data.reading.transforms import LONGEST, Shape, Transform, Window, check_size, picture_of, pixels_of

FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


class ResizeCrop(Transform):
    """torchvision's ``Resize`` and ``CenterCrop`` of a Pillow image, to the pixel.

    An image more than 16 times as long as wide is first cut to that, so that none grows without bound.

    Args:
        size: Side of the result, in pixels.
        resampling: "bilinear", "bicubic" or "lanczos", each with Pillow's low-pass filter.

    Raises:
        ValueError: If the size is not positive or there is no such filter.

    Example:
        >>> import torch
        >>> ResizeCrop(32, "bicubic")(torch.zeros(3, 100, 80, dtype=torch.uint8), np.random.default_rng(0)).shape
        torch.Size([3, 32, 32])
    """

    def __init__(self, size: int, resampling: str) -> None:
        check_size(size)
        if resampling not in FILTERS:
            raise ValueError(f"resampling must be one of {', '.join(FILTERS)}, got {resampling!r}")
        self.size = size
        self.resampling = resampling

    @override
    def window(self, shape: Shape) -> Window:
        if shape == (self.size, self.size):
            return 1.0, 1.0, 0.0, 0.0
        kept = min(shape[0], LONGEST * min(shape)), min(shape[1], LONGEST * min(shape))
        scaled = self._scaled(kept)
        down, across = scaled[0] / kept[0], scaled[1] / kept[1]
        top, left = (round((whole - part) / 2) for whole, part in zip(shape, kept, strict=True))
        cut = [round((whole - self.size) / 2) for whole in scaled]
        return down, across, top * down + cut[0], left * across + cut[1]

    def _scaled(self, shape: Shape) -> Shape:
        """Height and width of a scaled image; torchvision truncates."""
        return int(self.size * shape[0] / min(shape)), int(self.size * shape[1] / min(shape))

    @override
    def __call__(self, image: Real[Tensor, "c h w"], generator: np.random.Generator) -> Real[Tensor, "c size size"]:
        """Scale and crop; draws nothing from ``generator``."""
        if image.shape[-2:] == (self.size, self.size):
            return image.contiguous()
        most = LONGEST * min(image.shape[-2:])
        image = _centre(image, min(most, image.shape[-2]), min(most, image.shape[-1]))
        height, width = self._scaled((image.shape[-2], image.shape[-1]))
        pixels = pixels_of(picture_of(image).resize((width, height), FILTERS[self.resampling]))
        return _centre(pixels, self.size, self.size).contiguous()


def _centre(image: Tensor, height: int, width: int) -> Tensor:
    top, left = round((image.shape[-2] - height) / 2), round((image.shape[-1] - width) / 2)
    return image[:, top : top + height, left : left + width]
