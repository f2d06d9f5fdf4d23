"""What the nets of libraries have in common: squares of one size, normalised channels, weights from a file."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from imtok.errors import InputError
from imtok.extractors.base import Extractor
from imtok.extractors.resize import RESIZERS
from imtok.files import sha256 as hash_file
from imtok.pretrained import RANDOM
from imtok.weights import identity


@dataclass(frozen=True)
class Input:
    """What a net takes.

    Attributes:
        side: Of the squares, in pixels.
        resize: How images come to that size: a name of ``RESIZERS``.
        mean: Of the three channels, in [0, 1].
        std: Their standard deviations, in the same unit.

    Raises:
        ValueError: If a value is none of these.
    """

    side: int
    resize: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.side < 1:
            raise ValueError(f"image_size must be at least 1 pixel, got {self.side}")
        if self.resize not in RESIZERS:
            raise ValueError(f"resize must be one of {', '.join(RESIZERS)}, got {self.resize!r}")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != 3 or not all(math.isfinite(value) for value in values):
                raise ValueError(f"{name} must be three numbers, one for each channel, got {list(values)}")
        if min(self.std) <= 0:
            raise ValueError(f"std must be above 0, got {list(self.std)}")

    def changed(
        self,
        side: int | None = None,
        resize: str | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> "Input":
        """The same with some values in place of the net's own."""
        return Input(
            side if side is not None else self.side,
            resize if resize is not None else self.resize,
            tuple(mean) if mean is not None else self.mean,
            tuple(std) if std is not None else self.std,
        )


class LibraryExtractor(Extractor):
    """A net of a library, whose images are resized to a square, whatever their shape, and normalised.

    Args:
        library: It begins the name.
        net: The net with the tag of its weights.
        digest: Hash of the weight file, or "random".
        own: What the net takes by itself.
        used: What it is given. What differs from ``own`` shows in name and hash.
        dtype: "float32" or "float64".
    """

    told = ("net", "image_size", "resize", "mean", "std", "dtype")
    mean: Tensor
    deviation: Tensor

    def __init__(self, library: str, net: str, digest: str, own: Input, used: Input, dtype: str) -> None:
        super().__init__(dtype)
        self.side, self.resize = used.side, RESIZERS[used.resize]
        self.register_buffer("mean", torch.tensor(used.mean).view(3, 1, 1) * 255, persistent=False)
        self.register_buffer("deviation", torch.tensor(used.std).view(3, 1, 1) * 255, persistent=False)
        shifted = (used.mean, used.std) != (own.mean, own.std)
        normalised = f"mean {list(used.mean)}, std {list(used.std)}" if shifted else None
        marks = (
            RANDOM if digest == RANDOM else None,
            used.resize if used.resize != own.resize else None,
            f"norm{sha256(normalised.encode()).hexdigest()[:6]}" if normalised else None,
            dtype if dtype != "float32" else None,
        )
        self.name = "_".join([library, net, str(self.side), *filter(None, marks)])
        facts = {"net": net if library == "timm" else f"{library} {net}", "weights": digest, "size": self.side}
        facts["resize"] = "bicubic antialiased" if used.resize == "bicubic" else used.resize
        self.hash = identity(**facts, dtype=dtype, **({"normalised": normalised} if normalised else {}))

    def square(self, levels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 s s"]:
        """Images as the net takes them."""
        return (self.resize(levels, (self.side, self.side)) - self.mean) / self.deviation


def digest_of(path: Path, expected: str | None) -> str:
    """Hash of a weight file; InputError if it does not begin with the expected digits."""
    digest = hash_file(path)
    if expected is not None and not digest.startswith(expected):
        raise InputError(
            f"{path} is not the expected weight file: its sha256 must begin with {expected[:16]}, got {digest[:16]}; "
            "get it again, or give sha256=null to take it as it is"
        )
    return digest
