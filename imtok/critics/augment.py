"""Changes of images that let a critic learn from few of them without learning them by heart (arXiv 2006.10738)."""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from typing_extensions import override

from imtok.critics.base import CriticAugmentation

Change = Literal["color", "translation", "cutout"]


class DiffAugment(CriticAugmentation):
    """Colour, place and a square hole, drawn anew for every image; and, at first, a blur that is the same for all.

    Args:
        changes: Which of "color" (brightness, saturation, contrast), "translation" and "cutout", in the order in which
            they are made.
        translation: Largest shift, as a fraction of each side; what is left behind becomes 0.
        cutout: Side of the hole, as a fraction of the image's; it becomes 0 and may lie partly outside.
        blur_steps: Steps, from the critic's first one on, in which images are blurred before all else. The blur's
            weights halve at a distance that falls linearly from ``sqrt(side / 2)`` pixels to 0. 0 = no blur.

    Raises:
        ValueError: If a change is unknown, a fraction is not in [0, 1], or ``blur_steps`` is negative.

    Example:
        >>> image = torch.rand(2, 3, 16, 16) * 2 - 1
        >>> DiffAugment()(image, 0).shape, bool((DiffAugment(changes=[])(image, 0) == image).all())
        (torch.Size([2, 3, 16, 16]), True)
    """

    def __init__(
        self,
        changes: Sequence[Change] = ("color", "translation", "cutout"),
        translation: float = 0.125,
        cutout: float = 0.5,
        blur_steps: int = 0,
    ) -> None:
        super().__init__()
        if unknown := set(changes) - set(get_args(Change)):
            raise ValueError(f"changes must be among {', '.join(get_args(Change))}, got {sorted(unknown)}")
        if not 0 <= translation <= 1 or not 0 <= cutout <= 1:
            raise ValueError(f"translation and cutout must be in [0, 1], got {translation} and {cutout}")
        if blur_steps < 0:
            raise ValueError(f"blur_steps must not be negative, got {blur_steps}")
        self.changes = tuple(changes)
        self.translation = translation
        self.cutout = cutout
        self.blur_steps = blur_steps

    @override
    def forward(self, image: Float[Tensor, "b c h w"], step: int) -> Float[Tensor, "b c h2 w2"]:
        if step < self.blur_steps:
            image = _blurred(image, 1 - step / self.blur_steps)
        for change in self.changes:
            if change == "color":
                image = _recolor(image)
            elif change == "translation":
                image = _shift(image, self.translation)
            else:
                image = image.masked_fill(_hole(image, self.cutout), 0)
        return image


def _blurred(image: Float[Tensor, "b c h w"], share: float) -> Float[Tensor, "b c h w"]:
    """The images behind a share of the strongest blur, mirrored at their edges."""
    half = share * math.sqrt(min(image.shape[-2:]) / 2)  # the distance at which a weight is half as large
    reach = math.floor(3 * half)
    if reach < 1:
        return image
    offsets = torch.arange(-reach, reach + 1, device=image.device, dtype=image.dtype)
    weights = torch.exp2(-((offsets / half) ** 2))
    kernel = repeat(weights / weights.sum(), "k -> c 1 k 1", c=image.shape[1])
    rows = F.conv2d(F.pad(image, [reach] * 4, mode="reflect"), kernel, groups=image.shape[1])
    return F.conv2d(rows, kernel.mT, groups=image.shape[1])


def _recolor(image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    brightness, saturation, contrast = torch.rand(3, len(image), 1, 1, 1).to(image)  # on the CPU: the same everywhere
    image = image + brightness - 0.5
    grey = image.mean(1, keepdim=True)
    image = grey + (image - grey) * 2 * saturation
    level = image.mean((1, 2, 3), keepdim=True)
    return level + (image - level) * (contrast + 0.5)


def _shift(image: Float[Tensor, "b c h w"], most: float) -> Float[Tensor, "b c h w"]:
    for axis in (-2, -1):
        side = image.shape[axis]
        reach = round(side * most)
        shift = torch.randint(-reach, reach + 1, (len(image), 1)).to(image.device)
        places = torch.arange(side, device=image.device) + shift
        at = rearrange(places, "b h -> b 1 h 1" if axis == -2 else "b w -> b 1 1 w")
        outside = (at < 0) | (at >= side)
        image = image.gather(axis, at.clamp(0, side - 1).expand(image.shape)).masked_fill(outside, 0)
    return image


def _hole(image: Float[Tensor, "b c h w"], share: float) -> Bool[Tensor, "b 1 h w"]:
    inside = []
    for side in image.shape[-2:]:
        length = round(side * share)
        begin = torch.randint(0, side + 1 - length % 2, (len(image), 1)).to(image.device) - length // 2
        inside.append(_between(torch.arange(side, device=image.device), begin, length))
    return rearrange(inside[0], "b h -> b 1 h 1") & rearrange(inside[1], "b w -> b 1 1 w")


def _between(places: Int64[Tensor, " n"], begin: Int64[Tensor, "b 1"], length: int) -> Bool[Tensor, "b n"]:
    return (places >= begin) & (places < begin + length)
