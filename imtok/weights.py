"""Published weight files: found on this machine, checked by their hash, never fetched and never replaced by others."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from imtok.errors import InputError, MissingWeightsError
from imtok.files import canonical_json, sha256
from imtok.weight_files import kind_of, plain_names, read_content, shards_of


@dataclass(frozen=True)
class WeightFile:
    """A weight file as it was published.

    Attributes:
        names: What it is called in the cache of ``torch.hub``, by whichever library put it there.
        sha256: Hash of its bytes, or the first digits of it.
        source: Where to get it.
        option: The argument that takes a local path.
    """

    names: tuple[str, ...]
    sha256: str
    source: str
    option: str = "weights"

    def find(self, path: str | Path | None = None) -> Path:
        """The file at ``path``; without one, that in the cache of ``torch.hub``.

        Raises:
            InputError: If there is no such file; says where to get it. Without a path, ``MissingWeightsError``.
        """
        if path is not None:
            if Path(path).is_file():
                return Path(path)
            raise InputError(f"{self.option}={path} is not a file; {self._remedy()}")
        cache = Path(torch.hub.get_dir()) / "checkpoints"
        found = next((cache / name for name in self.names if (cache / name).is_file()), None)
        if found is None:
            raise MissingWeightsError(f"{self.names[0]} is not in {cache}; {self._remedy()}")
        return found

    def _remedy(self) -> str:
        return f"download {self.source} and put it there, or give its path as {self.option}=PATH"


@dataclass(frozen=True)
class Weights:
    """The tensors of a weight file.

    Attributes:
        path: Where they were read from.
        sha256: Hash of the file's bytes.
        tensors: By name.
    """

    path: Path
    sha256: str
    tensors: Mapping[str, Tensor]


def read_weights(path: Path, expected: str | None, option: str = "sha256", entries: tuple[str, ...] = ()) -> Weights:
    """Read a file of torch or safetensors, on the CPU.

    Args:
        path: The file.
        expected: Hash of its bytes, or the first digits of it; None = whatever it holds.
        option: The argument that takes ``expected``, for the message.
        entries: Where tensors may lie in a file that holds more; the first that is there is taken.

    Raises:
        InputError: If the hash is another one, or the file is something else or cannot be read.
    """
    parts = shards_of(path) or [path]
    for part in parts:
        kind_of(part)  # its message says more than a wrong hash
    digest = sha256(path) if parts == [path] else hashlib.sha256("".join(map(sha256, parts)).encode()).hexdigest()
    if expected is not None and not digest.startswith(expected):
        raise InputError(
            f"{path} is not the expected weight file: its sha256 must begin with {expected[:16]}, got {digest[:16]}; "
            f"get it again, or give {option}=null to take it as it is"
        )
    tensors = read_content(path).held
    for _ in entries:  # one may lie in another, and no further
        if isinstance(tensors, Mapping):
            tensors = next((tensors[name] for name in entries if name in tensors), tensors)
    if not isinstance(tensors, Mapping) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise InputError(f"{path} must hold tensors by name; it is not a weight file of this net")
    return Weights(path, digest, plain_names(tensors))


def fill(module: nn.Module, weights: Weights, prefix: str = "") -> None:
    """Copy every parameter and buffer of ``module`` from ``weights``; other tensors in the file do not matter.

    Args:
        module: The net.
        weights: Its weights.
        prefix: Put before the module's own names.

    Raises:
        InputError: If one is missing or has another shape.
    """
    for name, tensor in module.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        stored = weights.tensors.get(prefix + name)
        if stored is None or stored.shape != tensor.shape:
            found = "none" if stored is None else str(list(stored.shape))
            raise InputError(
                f"{weights.path} is of another net: {prefix + name} must have shape {list(tensor.shape)}, got {found}"
            )
        with torch.no_grad():
            tensor.copy_(stored)


def identity(**facts: str | int | None) -> str:
    """A hash of everything that decides what a net makes of an image."""
    return hashlib.sha256(canonical_json(facts).encode()).hexdigest()
