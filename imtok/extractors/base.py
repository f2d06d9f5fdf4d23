"""The contract that every feature extractor keeps."""

import re
from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from typing_extensions import override

from imtok.nn.exact import exactly

DTYPES = {"float32": torch.float32, "float64": torch.float64}
_NAME, _HASH = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}"), re.compile(r"[0-9a-f]{64}")


class Features(NamedTuple):
    """What an extractor makes of a batch.

    Attributes:
        features: A vector per image.
        logits: Unnormalised log-probabilities of classes, for the inception score; None where the net has none.
        spatial: A vector per image that keeps places apart, for sFID; None where the net has none.
    """

    features: Float[Tensor, "b f"]
    logits: Float[Tensor, "b k"] | None = None
    spatial: Float[Tensor, "b s"] | None = None


class Extractor(nn.Module, ABC):
    """A frozen net: always in evaluation mode, without gradients, without autocast.

    A class of one's own sets ``name``, ``hash`` and ``dim`` and writes ``extract``; :meth:`freeze` ends its
    ``__init__``. Keep an extractor outside of what is trained, or its weights end up in every checkpoint.

    Attributes:
        name: Which net at which size; part of every number's name, so it is of letters, digits, ``_``, ``.``, ``-``.
        distance: Name of the Fréchet distance in its features: ``fid_...`` for the one net that published values of
            FID are of, ``fd_...`` for all others.
        hash: Of everything that decides the features: weights, resizer, precision; ``imtok.weights.identity`` makes
            it. Numbers and cached references of different hashes are not comparable.
        dim: Length of a feature vector.
        family: What a report calls the class; empty = by its path.
        told: Arguments that a report lists beside it.
    """

    name: str
    hash: str
    dim: int
    family: ClassVar[str] = ""
    told: ClassVar[tuple[str, ...]] = ()

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

    def check(self) -> None:
        """Try one grey image.

        Raises:
            ValueError: If name, hash, length or type of what comes out are not what the contract says.
        """
        for attribute, pattern, rule in (
            ("name", _NAME, "a text of at most 100 letters, digits, _, . and -"),
            ("hash", _HASH, "64 hexadecimal digits, as imtok.weights.identity gives them"),
        ):
            value = getattr(self, attribute, None)
            if not (isinstance(value, str) and pattern.fullmatch(value)):
                raise ValueError(f"{attribute} must be {rule}, got {value!r}")
        found = self(torch.full((1, 3, 32, 32), 127, dtype=torch.uint8))
        if not isinstance(found, Features):
            raise ValueError(f"extract must return Features, got {type(found).__name__}")
        if found.features.shape != (1, getattr(self, "dim", None)):
            shape = list(found.features.shape)
            raise ValueError(
                f"dim must be the length of a feature vector, got {getattr(self, 'dim', None)} for {shape}"
            )

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
        if any(module.training for module in self.modules()):  # or the statistics of a batch norm would move
            self.eval()
        with torch.no_grad(), exactly(image.device):
            return self.extract(image.to(self.dtype))

    @abstractmethod
    def extract(self, levels: Float[Tensor, "b 3 h w"]) -> Features:
        """Features of images in the net's precision, levels from 0 to 255."""
