"""The token store: shards of ids with labels and keys beside them, and a manifest that knows every file's hash."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from imtok.errors import InputError
from imtok.files import canonical_json, read_json, sha256
from imtok.tokenizer import Tokenizer

MANIFEST = "manifest.json"
FORMAT = 1


@dataclass(frozen=True)
class Shard:
    """Consecutive images of a store.

    Attributes:
        ids: ``images tokens slots``, uint16 or uint32.
        labels: Class of each image, -1 where there is none.
        keys: Name of each image.
        keep: ``images latents``, True where a latent is transmitted; None for fixed-length tokenizers.
    """

    ids: np.ndarray
    labels: np.ndarray
    keys: list[str]
    keep: np.ndarray | None


class TokenStore:
    """Reads what ``export_tokens`` wrote; what writers for particular generators start from.

    Args:
        folder: The export folder.

    Raises:
        InputError: If it is not a token store of this format.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / MANIFEST).is_file():
            raise InputError(f"{folder} is not a token store (no {MANIFEST} in it); write one with imtok export")
        self.manifest: dict[str, Any] = read_json(folder / MANIFEST)
        if not isinstance(self.manifest, dict) or self.manifest.get("format") != FORMAT:
            raise InputError(f"{folder / MANIFEST} is not of format {FORMAT}")

    def __len__(self) -> int:
        return self.manifest["images"]

    def shards(self) -> Iterator[Shard]:
        """The shards in order; ids, labels and masks are mapped, not read."""
        for number in range(self.manifest["shards"]):
            arrays = {
                name: np.load(self.folder / f"{name}-{number:05d}.npy", mmap_mode="r", allow_pickle=False)
                for name in ("ids", "labels", *(("keep",) if self.manifest["variable_length"] else ()))
            }
            keys = read_json(self.folder / f"keys-{number:05d}.json")
            yield Shard(arrays["ids"], arrays["labels"], keys, arrays.get("keep"))

    @cached_property
    def classes(self) -> list[str]:
        """Names of the classes, by label."""
        return list(self.manifest["classes"])

    def verify(self) -> None:
        """Hash every file again; InputError that names the first one that is missing, altered or not ours."""
        files: dict[str, Any] = self.manifest["files"]
        for name, about in files.items():
            path = self.folder / name
            if not path.is_file():
                raise InputError(f"{path} is missing; export again")
            if path.stat().st_size != about["bytes"] or sha256(path) != about["sha256"]:
                raise InputError(f"{path} was altered (its sha256 is not the one in {MANIFEST}); export again")
        strange = {path.name for path in self.folder.iterdir()} - files.keys() - {MANIFEST}
        if strange:
            raise InputError(f"{self.folder / min(strange)} is not in {MANIFEST}; move it elsewhere")


def fingerprint(tokenizer: Tokenizer) -> str:
    """Sha256 of a tokenizer's config and weights, the same wherever and however it is stored."""
    digest = hashlib.sha256(canonical_json(tokenizer.config).encode())
    for name, value in sorted(tokenizer.state_dict().items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
