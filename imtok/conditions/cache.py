"""Features of captions in a folder, so that a frozen text tower reads each caption once and not in every epoch.

``features.json`` says of which tower they are. ``values.bin`` holds the rows that say something, one caption after the
other, ``ends.npy`` where each caption ends, ``keys.npy`` the hashes of the captions in ascending order.
"""

import hashlib
import mmap
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from imtok.bars import watched
from imtok.conditions.base import Conditioner
from imtok.errors import InputError
from imtok.files import is_sealed, new_folder, read_json, sealed, sha256, write_json

FORMAT = "imtok text features 1"
MANIFEST, VALUES, ENDS, KEYS = "features.json", "values.bin", "ends.npy", "keys.npy"
AT_A_TIME = 16  # captions that the tower reads together
_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

Encode = Callable[[list[str]], list[Float[Tensor, "_ c"]]]


def key_of(caption: str) -> bytes:
    """16 bytes that no other caption has."""
    return hashlib.blake2b(caption.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def write_features(folder: Path, captions: Iterable[str], encode: Encode, about: dict[str, Any]) -> int:
    """Write the features of all captions that differ; the folder appears whole or not at all.

    Args:
        folder: New. One of the same tower and captions is left as it is.
        captions: Blank ones are left out.
        encode: Gives the rows of each of some captions that say something.
        about: What decides the features: hash and sizes of the tower.

    Returns:
        How many captions the folder holds.

    Raises:
        InputError: If the folder holds something else.
    """
    keyed = {key_of(caption): caption for caption in (Conditioner.example_caption, *captions) if caption.strip()}
    order = sorted(keyed)
    keys = np.frombuffer(b"".join(order), np.uint8).reshape(-1, 16)
    plan = {"format": FORMAT, **about, "captions": len(order), "keys": hashlib.sha256(keys.tobytes()).hexdigest()}
    if folder.exists():
        found = read_json(folder / MANIFEST) if (folder / MANIFEST).is_file() else None
        if isinstance(found, dict) and is_sealed(found) and plan.items() <= found.items():
            return len(order)
        raise InputError(f"{folder} already holds something else; remove it, or give another folder")
    dtype, ends, end = _TYPES[about["precision"]], list[int](), 0
    with new_folder(folder) as aside:
        with (aside / VALUES).open("wb") as file:
            starts = range(0, len(order), AT_A_TIME)
            for first in watched(starts, len(order), "captions", lambda first: min(AT_A_TIME, len(order) - first)):
                some = [keyed[key] for key in order[first : first + AT_A_TIME]]
                for rows in encode(some):
                    file.write(rows.to(dtype).contiguous().cpu().view(torch.uint8).numpy().tobytes())
                    end += len(rows)
                    ends.append(end)
        np.save(aside / ENDS, np.array(ends, np.int64), allow_pickle=False)
        np.save(aside / KEYS, keys, allow_pickle=False)
        write_json(aside / MANIFEST, sealed({**plan, "files": {name: sha256(aside / name) for name in (ENDS, KEYS)}}))
    return len(order)


class StoredFeatures:
    """Stored features, read as they are asked for.

    Args:
        folder: What :func:`write_features` wrote.

    Attributes:
        about: Its manifest.

    Raises:
        InputError: If it holds something else, or was altered.
    """

    def __init__(self, folder: Path) -> None:
        about = read_json(folder / MANIFEST) if (folder / MANIFEST).is_file() else None
        if not isinstance(about, dict) or about.get("format") != FORMAT or not is_sealed(about):
            raise InputError(f"condition.cache={folder} holds no text features; give a folder that imtok pack wrote")
        self.folder, self.about = folder, about
        for name, digest in about["files"].items():
            if not (folder / name).is_file() or sha256(folder / name) != digest:
                raise InputError(f"{folder / name} was altered or is missing; remove the folder and pack it again")
        self._ends: np.ndarray = np.load(folder / ENDS, allow_pickle=False)
        keys: np.ndarray = np.load(folder / KEYS, allow_pickle=False)
        self._at = {keys[row].tobytes(): row for row in range(len(keys))}
        self._type, self._width = _TYPES[about["precision"]], int(about["dim"])
        size = (folder / VALUES).stat().st_size if (folder / VALUES).is_file() else -1
        if size != int(self._ends[-1]) * self._width * self._type.itemsize:
            raise InputError(f"{folder / VALUES} was cut or is missing; remove the folder and pack it again")
        with (folder / VALUES).open("rb") as file:
            self._values = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def find(self, caption: str) -> Float[Tensor, "_ c"] | None:
        """The rows of a caption in fp32; None if it is not there."""
        row = self._at.get(key_of(caption))
        if row is None:
            return None
        size = self._width * self._type.itemsize
        first, end = int(self._ends[row - 1]) if row else 0, int(self._ends[row])
        values = torch.frombuffer(bytearray(self._values[first * size : end * size]), dtype=self._type)
        return values.reshape(-1, self._width).float()
