"""How published numbers were measured: crop, rounding, extractor and its resizer belong together."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import torch
from jaxtyping import Float, Real
from torch import Tensor

from imtok.data.base import Images, require_list
from imtok.data.reading.transforms import CentreCrop, Transform, WholeImage
from imtok.errors import InputError
from imtok.extractors.base import Extractor
from imtok.extractors.inception import PUBLISHED, Inception
from imtok.files import canonical_json
from imtok.measures.chosen import built, described
from imtok.measures.crops import FILTERS, ResizeCrop
from imtok.nn.efflite0 import SHA256
from imtok.pixels import to_rgb, to_uint8

INCEPTION: dict[str, Any] = {
    "_target_": "imtok.extractors.inception.Inception",
    "resize": "tf1",
    "dtype": "float32",
    "weights": None,
    "sha256": PUBLISHED.sha256,
}
EFFLITE0: dict[str, Any] = {
    "_target_": "imtok.extractors.efflite0.EffLite0",
    "resize": "antialiased",
    "dtype": "float32",
    "weights": None,
    "sha256": SHA256,
}
PRESETS: dict[str, dict[str, Any]] = {
    "adm": {"crop": "adm", "rounding": "round", "extractor": INCEPTION},
    "titok": {"crop": "bicubic", "rounding": "round", "extractor": {**INCEPTION, "dtype": "float64"}},
    "pytorch_fid": {"crop": "bilinear", "rounding": "none", "extractor": {**INCEPTION, "resize": "half_pixel"}},
    "offline": {"crop": "adm", "rounding": "round", "extractor": EFFLITE0},
}
FOLLOWED_BY = {
    "adm": "LlamaGen, FQGAN, GigaTok, ReTok, ImageFolder, RobustTok",
    "titok": "TiTok, TA-TiTok, One-D-Piece",
    "pytorch_fid": "Open-MAGVIT2, IBQ, WeTok, SimVQ",
    "offline": "nothing published: it ranks tokenizers of one project",
}
WHOLE = "none"  # crop: images as they are
_CHOICES = {"crop": ("adm", *FILTERS, WHOLE), "rounding": ("round", "truncate", "none")}


@dataclass(frozen=True)
class Protocol:
    """Everything between an image file and the features that a number is made of.

    Args:
        preset: Which published protocol the rest is meant to be: "adm", "titok", "pytorch_fid" or "offline".
        crop: From a file to a square: "adm", or the filter of torchvision's Resize ("bilinear", "bicubic", "lanczos");
            "none" = the whole image, of whatever size.
        rounding: What happens to a reconstruction before the extractor: "round" to levels, "truncate", or "none".
        extractor: The net, as a section with ``_target_`` that is built when a metric needs it; None = the preset's.
        key: Where that section stands in the config, for messages.

    Raises:
        ValueError: If a setting is not one of these.

    Example:
        >>> Protocol("adm").title, Protocol("adm", rounding="truncate").title
        ('adm', 'custom')
        >>> Protocol("adm", rounding="truncate").overrides
        ['rounding=truncate instead of round']
        >>> Protocol("adm", extractor=EFFLITE0).overrides
        ['extractor=efflite0 instead of inception_tf', 'resize=antialiased instead of tf1']
    """

    preset: str = "adm"
    crop: str | None = None
    rounding: str | None = None
    extractor: Any = None  # a section: the config's checks say more of another value than its type would
    key: str = "protocol.extractor"

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {self.preset!r}")
        for name, usual in PRESETS[self.preset].items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, usual)
            if name in _CHOICES and getattr(self, name) not in _CHOICES[name]:
                raise ValueError(f"{name} must be one of {', '.join(_CHOICES[name])}, got {getattr(self, name)!r}")
        if not isinstance(self.extractor, Mapping):
            raise ValueError(f"extractor must be a section with _target_, got {self.extractor!r}")
        described(self.extractor, self.key)  # what is no extractor is refused here

    @property
    def overrides(self) -> list[str]:
        """What differs from the preset. The extractor's weights stand in the names of its numbers."""
        usual, own = _decides(PRESETS[self.preset], self.key), _decides(vars(self), self.key)
        return [f"{k}={own[k]} instead of {v}" for k, v in usual.items() if k in own and own[k] != v]

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
        return {"preset": self.title, **_decides(vars(self), self.key)}

    def refuses(self, error: InputError) -> bool:
        """Whether an error of :meth:`build` is a mistake of the config, and no published file that is not here."""
        return self.extractor.get("weights") is not None or error.__cause__ is not None

    @property
    def of_inception(self) -> bool:
        """Whether stored statistics that published FIDs are taken against are of this net."""
        return self.settings["extractor"] == Inception.family

    def transform(self, size: int) -> Transform:
        """From an image to a square of ``size`` pixels, or to itself."""
        if self.crop == WHOLE:
            return WholeImage(size)
        return CentreCrop(size) if self.crop == "adm" else ResizeCrop(size, str(self.crop))

    def build(self) -> Extractor:
        """The extractor; InputError that names the config's key if its weight file is missing or another one."""
        return built(self.extractor, self.key)

    def levels(self, image: Float[Tensor, "b c h w"]) -> Real[Tensor, "b 3 h w"]:
        """A reconstruction in ``[-1, 1]`` as the extractor gets it: RGB levels from 0 to 255."""
        image = to_rgb(image)
        if self.rounding == "round":
            return to_uint8(image)
        levels = (image.float().clamp(-1, 1) + 1) * 127.5
        return levels.to(torch.uint8) if self.rounding == "truncate" else levels


def _decides(values: Mapping[str, Any], key: str) -> dict[str, Any]:
    """All that decides numbers, flat."""
    return {**{name: values[name] for name in _CHOICES}, **described(values["extractor"], key)}


def protocol_id(facts: dict[str, Any]) -> str:
    """A short name for everything that must be alike for two numbers to be comparable."""
    return sha256(canonical_json(facts).encode()).hexdigest()[:12]


def prepare(images: Images, protocol: Protocol, n: int | None) -> Images:
    """The images as a protocol crops them, and no more than ``n`` of them, evenly over a list; of a stream all."""
    if n is not None:
        refusal = "n must be null for a stream of shards, which is read from end to end"
        images = require_list(images, refusal).spread(n)
    return images.cropped(protocol.transform(images.image_size))
