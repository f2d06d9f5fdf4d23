"""A data set as tokens, for generators to train on."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from imtok.errors import InputError
from imtok.evaluation.inference import evaluating, read_images, require_finite, require_images
from imtok.export.codebook import layout, write_codebook
from imtok.export.store import FORMAT, MANIFEST, fingerprint
from imtok.files import claim_output, new_folder, sealed, sha256, write_json
from imtok.tokenizer import Tokenizer
from imtok.types import Batch


def export_tokens(
    tokenizer: Tokenizer,
    loader: Iterable[Batch],
    folder: Path,
    shard_size: int = 10_000,
    device: str | torch.device = "cpu",
    classes: list[str] | None = None,
) -> dict[str, Any]:
    """Write ids, labels and keys of every image in shards, the codebook, and last the manifest.

    Args:
        tokenizer: Ends on ``device``.
        loader: Images of one size, in the order in which they are to be stored.
        folder: Appears whole or not at all; an earlier export in it is replaced.
        shard_size: Images per shard, at least 1.
        device: Where to compute.
        classes: Names of the classes, by label.

    Returns:
        The manifest.

    Raises:
        InputError: If the tokenizer has no ids, no image can be read, or the folder holds something else.
        ValueError: If ``shard_size`` is less than 1.
    """
    if shard_size < 1:
        raise ValueError(f"shard_size must be at least 1, got {shard_size}")
    quantizer = tokenizer.quantizer
    if not quantizer.vocab_sizes:
        raise InputError(f"{type(quantizer).__name__} has continuous latents and no ids to export")
    claim_output(folder, MANIFEST)
    device, bad = torch.device(device), list[str]()
    dtype = id_type(quantizer.vocab_sizes)
    with new_folder(folder) as aside, evaluating(tokenizer.to(device)):
        shards, image_size, tokens, batch_size = _Shards(aside, shard_size), (0, 0), 0, 0
        for batch, image, image_size in read_images(tokenizer, loader, device, bad):  # noqa: B007, the last one counts
            quantized = tokenizer.quantize(image)
            require_finite(quantized.latents, batch.key, "latents")
            ids = quantized.ids.cpu().numpy()
            tokens, batch_size = ids.shape[1], max(batch_size, len(ids))
            keep = None if quantized.keep is None else quantized.keep.cpu().numpy()
            shards.add(ids.astype(dtype), batch.label.numpy(), batch.key, keep)
        shards.finish()
        require_images(shards.images, bad)
        no_codebook = write_codebook(quantizer, aside / "codebook.safetensors")
        files = {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in sorted(aside.iterdir())}
        manifest = {
            "format": FORMAT,
            "images": shards.images,
            "tokens": tokens,
            "shards": shards.number,
            "shard_size": shard_size,
            "batch_size": batch_size,
            "ids": {"shape": ["images", "tokens", "slots"], "dtype": dtype.name},
            "token_order": "that of the tokenizer's latents; of a grid row by row, from the top left",
            "variable_length": shards.variable_length,
            **layout(quantizer),
            "image_size": list(image_size),
            "classes": classes or [],
            "tokenizer_sha256": fingerprint(tokenizer),
            "codebook_absent": no_codebook,
            "bad": bad,
            "files": files,
        }
        manifest = sealed(manifest)
        write_json(aside / MANIFEST, manifest)
    return manifest


def id_type(vocab_sizes: Sequence[int]) -> np.dtype:
    """The type that ids are stored in: uint16, or uint32, or int64, by the largest vocabulary."""
    largest = max(vocab_sizes)
    return np.dtype(np.uint16 if largest <= 2**16 else np.uint32 if largest <= 2**32 else np.int64)


class _Shards:
    """Collects rows and writes a shard whenever enough of them have come."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder, self.size = folder, size
        self.number = self.images = 0
        self.variable_length = False
        self._rows: dict[str, list[np.ndarray]] = {"ids": [], "labels": [], "keep": []}
        self._keys: list[str] = []

    def add(self, ids: np.ndarray, labels: np.ndarray, keys: list[str], keep: np.ndarray | None) -> None:
        self._rows["ids"].extend(ids)
        self._rows["labels"].extend(labels)
        self._keys.extend(keys)
        self.images += len(keys)
        if keep is not None:
            self._rows["keep"].extend(keep)
            self.variable_length = True
        while len(self._keys) >= self.size:
            self._write()

    def finish(self) -> None:
        if self._keys:
            self._write()

    def _write(self) -> None:
        for name, rows in self._rows.items():
            if rows:
                np.save(self.folder / f"{name}-{self.number:05d}.npy", np.stack(rows[: self.size]), allow_pickle=False)
                self._rows[name] = rows[self.size :]
        write_json(self.folder / f"keys-{self.number:05d}.json", self._keys[: self.size])
        self._keys = self._keys[self.size :]
        self.number += 1
