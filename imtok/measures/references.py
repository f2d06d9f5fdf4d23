"""Reference statistics kept in files, so that a data set's features are extracted once per protocol."""

from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from imtok.errors import InputError
from imtok.files import canonical_json, write_bytes
from imtok.measures.frechet import FeatureGaussian

_SCHEMA = "1"


@dataclass(frozen=True)
class ReferenceKey:
    """What reference statistics are of. A distance to statistics of another key means nothing.

    Attributes:
        data: Hash or name of the data set, its split and number of images.
        preset: How images were cropped, resized and rounded.
        extractor: The extractor's ``hash``.
    """

    data: str
    preset: str
    extractor: str

    @property
    def digest(self) -> str:
        """Hash of the three."""
        return sha256(canonical_json(asdict(self)).encode()).hexdigest()

    def path(self, folder: Path) -> Path:
        """Where a cache keeps these statistics."""
        return folder / f"{self.digest[:32]}.safetensors"


def save_reference(path: Path, gaussian: FeatureGaussian, key: ReferenceKey) -> str:
    """Write statistics, whole or not at all; returns the hash of their bytes, which a report should carry.

    Args:
        path: The file.
        gaussian: The statistics.
        key: What they are of.
    """
    tensors = {
        "count": torch.tensor(gaussian.count),
        "mean": gaussian.mean.cpu().contiguous(),
        "covariance": gaussian.covariance.cpu().contiguous(),
    }
    digest = _digest(tensors)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, save(tensors, metadata={"schema": _SCHEMA, "sha256": digest, **asdict(key)}))
    return digest


def load_reference(path: Path, key: ReferenceKey) -> FeatureGaussian:
    """Read statistics back.

    Args:
        path: The file.
        key: What they should be of.

    Raises:
        InputError: If the file is missing or damaged, or its statistics are of something else.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist; compute the reference statistics first")
    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in ("count", "mean", "covariance")}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is damaged ({error}); delete it, and it will be computed again") from None
    for name, expected in {"schema": _SCHEMA, **asdict(key)}.items():
        if facts.get(name) != expected:
            raise InputError(f"{path} holds a reference of another {name}: expected {expected}, got {facts.get(name)}")
    if facts.get("sha256") != _digest(tensors):
        raise InputError(f"{path} is damaged (its hash differs); delete it, and it will be computed again")
    return FeatureGaussian(int(tensors["count"]), tensors["mean"], tensors["covariance"])


def _digest(tensors: dict[str, Tensor]) -> str:
    hashed = sha256()
    for name in sorted(tensors):
        hashed.update(tensors[name].numpy().tobytes())
    return hashed.hexdigest()
