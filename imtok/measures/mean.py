"""A mean over images that is the same number however the images are split into batches and ranks."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Bool, Float, Real
from torch import Tensor
from torchmetrics import Metric
from typing_extensions import override

UNIT = 2.0**-32  # sums of values up to 100 stay inside int64 for twenty million images


class ImageMean(Metric, ABC):
    """The mean of a value per pair of images.

    Values are summed as integers, in units of 2^-32. Float sums depend on their order, so that batch size and number
    of ranks would show in the last digits; integer sums do not.

    A class says what its number is in attributes (:class:`imtok.measures.quantity.Quantity`), and its YAML file of
    ``configs/measure`` names it.

    Attributes:
        smallest: Images below so many pixels a side cannot be measured.
        lacking: The reason why no image has a value, if it is not the size.
        facts: What else the number depends on, such as the hash of weights.

    Args:
        **settings: Of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: In ``update``, if the images differ in shape or a value is not finite.
    """

    full_state_update = False
    name: str = ""
    title: str = ""
    unit: str = ""
    convention: str = ""
    meaning: str = ""
    smallest: int = 1
    lacking: str = ""
    facts: Mapping[str, Any] = MappingProxyType({})
    total: Tensor
    count: Tensor

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.add_state("total", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    @abstractmethod
    def per_image(self, image: Real[Tensor, "b c h w"], target: Real[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
        """The value of each pair, float64."""

    def measured(self, target: Real[Tensor, "b c h w"]) -> Bool[Tensor, " b"]:
        """The mask of images with a value; the others do not count."""
        return torch.ones(len(target), dtype=torch.bool, device=target.device)

    @override
    def update(self, image: Real[Tensor, "b c h w"], target: Real[Tensor, "b c h w"]) -> None:
        """Count pairs of images in.

        Args:
            image: Reconstructions.
            target: What they should be.
        """
        if image.shape != target.shape:
            raise ValueError(f"images must have the shape of their targets {tuple(target.shape)}, got {image.shape}")
        values = self.per_image(image, target)[self.measured(target)]
        if not torch.isfinite(values).all():
            raise ValueError(f"the {type(self).__name__} of an image must be finite, got {values.tolist()}")
        self.total += (values / UNIT).round().long().sum()
        self.count += len(values)

    @override
    def compute(self) -> Float[Tensor, ""]:
        """The mean over all images so far, float64; NaN without any."""
        return self.total.double() * UNIT / self.count
