"""Other colours for training images: a few photographs hold few colours, and a tokenizer should know them all."""

import numpy as np
import torch
from jaxtyping import Real
from torch import Tensor
from torchvision.transforms.v2 import functional
from typing_extensions import override

from imtok.data.reading.transforms import Shape, Transform

CONTRAST = (0.2, 0.15)  # deviation of the logarithm of the contrast: of a whole image, and of each of its channels
BRIGHTNESS = (0.12, 0.08)  # deviation of the brightness, as fractions of all levels: of an image, and of each channel


class RandomColours(Transform):
    """Changes the colours of some images after another transform: exchanged channels, and another light.

    Two changes are drawn apart from each other, each for a share of the images:

    * The three colours are put into a random order of the six. Grey images and alpha stay as they are.
    * Contrast and brightness change, mostly those of the whole image and a little those of each channel. What would
      leave the range of levels is held inside it, so that nothing is clipped.

    Args:
        transform: What makes the square.
        share: Share of images to which each change happens, in [0, 1].

    Raises:
        ValueError: If the share is out of range.

    Example:
        >>> from imtok.data.reading.transforms import CentreCrop
        >>> change = RandomColours(CentreCrop(32), share=1.0)
        >>> change(torch.full((3, 100, 80), 90, dtype=torch.uint8), np.random.default_rng(0)).shape
        torch.Size([3, 32, 32])
    """

    def __init__(self, transform: Transform, share: float) -> None:
        check_share(share)
        self.transform, self.share = transform, share
        self.size, self.least = transform.size, transform.least

    @override
    def shaped(self, shape: Shape) -> "RandomColours":
        return RandomColours(self.transform.shaped(shape), self.share)

    @override
    def __call__(self, image: Real[Tensor, "c height width"], generator: np.random.Generator) -> Real[Tensor, "c h w"]:
        """The square, perhaps in other colours; ``transform`` draws first, and draws what it draws alone."""
        square = self.transform(image, generator)
        exchanged, lit = generator.random(2) < self.share
        order = generator.permutation(3)
        contrast, brightness = (
            torch.from_numpy(whole * generator.standard_normal(1) + single * generator.standard_normal(3)).float()
            for whole, single in (CONTRAST, BRIGHTNESS)
        )
        if exchanged and len(square) > 1:  # grey has no colours to exchange
            square = functional.permute_channels(square, [*order.tolist(), *range(3, len(square))])
        if not lit:
            return square
        colours = min(len(square), 3)
        changed = _lit(square[:colours], contrast.exp()[:colours], brightness[:colours])
        return torch.cat([changed, square[colours:]])


def check_share(share: float) -> None:
    """Refuse with a ValueError a share of images that is out of range."""
    if not 0 <= share <= 1:
        raise ValueError(f"colours must be a share of images in [0, 1], got {share}")


def _lit(image: Real[Tensor, "c h w"], contrast: Tensor, brightness: Tensor) -> Real[Tensor, "c h w"]:
    """Every channel stretched about its middle and moved, as far as it stays inside the levels."""
    levels = image.float() / 255
    low, high = levels.amin((1, 2)), levels.amax((1, 2))
    middle, reach = (low + high) / 2, (high - low) / 2
    stretch = torch.minimum(contrast, 0.5 / reach.clamp_min(1e-6))
    reach = reach * stretch
    centre = torch.clamp(middle + brightness, reach, 1 - reach)
    moved = (levels - middle[:, None, None]) * stretch[:, None, None] + centre[:, None, None]
    return (moved * 255).clamp(0, 255) if image.is_floating_point() else (moved * 255).round().clamp(0, 255).byte()
