"""The contract that every feature extractor keeps."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from typing_extensions import override

DTYPES = {"float32": torch.float32, "float64": torch.float64}


class Features(NamedTuple):
    """What an extractor makes of a batch.

    Attributes:
        features: A vector per image.
        logits: Unnormalised log-probabilities of classes, for the inception score; None where the net has none.
        spatial: A vector per image that keeps places apart, for sFID; None where the net has none.
    """

    features: Float[Tensor, "b f"]
    logits: Float[Tensor, "b k"] | None
    spatial: Float[Tensor, "b s"] | None = None


class Extractor(nn.Module, ABC):
    """A frozen net: always in evaluation mode, without gradients, without autocast.

    Keep it outside of what is trained, or its weights end up in every checkpoint.

    Attributes:
        name: Which net at which size; part of every number's name.
        distance: Name of the Fréchet distance in its features: ``fid_...`` for the one net that published values of
            FID are of, ``fd_...`` for all others.
        hash: Of everything that decides the features: weights, resizer, precision. Numbers and cached references of
            different hashes are not comparable.
        dim: Length of a feature vector.
    """

    name: str
    hash: str
    dim: int

    def __init__(self, dtype: str = "float32") -> None:
        super().__init__()
        if dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
        self.dtype = DTYPES[dtype]

    @property
    def distance(self) -> str:
        """Name of the Fréchet distance in these features."""
        return f"fd_{self.name}"

    def freeze(self) -> None:
        """Evaluation mode, no gradients, in ``dtype``, laid out for speed: the last step of building one."""
        self.to(self.dtype).to(memory_format=torch.channels_last)
        self.requires_grad_(False).eval()

    @override
    def forward(self, image: UInt8[Tensor, "b 3 h w"] | Float[Tensor, "b 3 h w"]) -> Features:
        """Extract features.

        Args:
            image: RGB levels from 0 to 255: uint8, or float for protocols that do not round.

        Raises:
            ValueError: If a level is not a number in that range.
        """
        if image.is_floating_point() and len(image):
            least, most = image.aminmax()
            if not (least >= 0 and most <= 255):  # False for NaN too
                raise ValueError(f"image must hold levels from 0 to 255, got {least.item():g} to {most.item():g}")
        if self.training:  # whoever holds it may have called train(): the statistics of a batch norm must not move
            self.eval()
        with torch.no_grad(), torch.autocast(image.device.type, enabled=False):
            return self.extract(image.to(self.dtype))

    @abstractmethod
    def extract(self, levels: Float[Tensor, "b 3 h w"]) -> Features:
        """Features of images in the net's precision, levels from 0 to 255."""
