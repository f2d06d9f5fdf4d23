"""Maps of pictures in a folder, so that a frozen space encodes each picture once and not in every epoch.

``maps.json`` says of which net and of which pictures they are. ``values.bin`` holds the maps in fp32, one after the
other, ``keys.npy`` the hashes of the pixels that they were made of, in the same order.
"""

import hashlib
import mmap
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from jaxtyping import Float, UInt8
from torch import Tensor

from imtok.errors import InputError
from imtok.files import is_sealed, new_folder, read_json, sealed, sha256, write_json
from imtok.pixels import to_float

FORMAT = "imtok maps 1"
MANIFEST, VALUES, KEYS = "maps.json", "values.bin", "keys.npy"
AT_A_TIME = 16  # pictures that the net encodes together

Encode = Callable[[Float[Tensor, "b 3 h w"]], Float[Tensor, "b ..."]]
Key = bytes


def key_of(pixels: UInt8[Tensor, "3 h w"]) -> Key:
    """16 bytes that no other picture of this size has."""
    return xxhash.xxh3_128_digest(pixels.contiguous().numpy().data)


def write_maps(
    folder: Path,
    pictures: Iterable[UInt8[Tensor, "_ 3 h w"]],
    encode: Encode,
    about: dict[str, Any],
) -> int:
    """Write the maps of all pictures that differ; the folder appears whole or not at all.

    Args:
        folder: New. One of the same net and pictures is left as it is.
        pictures: Squares, as training sees them. If ``about`` says ``flip``, their mirror images are encoded, too.
        encode: The net, on images in ``[-1, 1]``.
        about: What decides the maps: the net and its settings, the list of pictures and how they are cropped.

    Returns:
        How many maps the folder holds.

    Raises:
        InputError: If the folder holds something else.
    """
    plan = {"format": FORMAT, **about}
    if folder.exists():
        found = read_json(folder / MANIFEST) if (folder / MANIFEST).is_file() else None
        if isinstance(found, dict) and is_sealed(found) and plan.items() <= found.items():
            return int(found["maps"])
        raise InputError(f"{folder} already holds something else; remove it, or give another folder")
    keys, shape = dict[Key, None](), list[int]()  # a dict keeps its order
    with new_folder(folder) as aside:
        with (aside / VALUES).open("wb") as file:
            for batch in pictures:
                for some in (batch, batch.flip(-1)) if about["flip"] else (batch,):
                    new = {key: picture for picture in some if (key := key_of(picture)) not in keys}
                    if new:
                        maps = encode(to_float(torch.stack(list(new.values())))).float().cpu().contiguous()
                        file.write(maps.numpy().tobytes())
                        keys |= dict.fromkeys(new)
                        shape = list(maps.shape[1:])
        np.save(aside / KEYS, np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 16), allow_pickle=False)
        told = {"maps": len(keys), "shape": shape, "files": {KEYS: sha256(aside / KEYS)}}
        write_json(aside / MANIFEST, sealed({**plan, **told}))
    return len(keys)


class Maps:
    """Stored maps, read as they are asked for.

    Args:
        folder: What :func:`write_maps` wrote.

    Attributes:
        about: Its manifest.

    Raises:
        InputError: If it holds something else, or was altered.
    """

    def __init__(self, folder: Path) -> None:
        about = read_json(folder / MANIFEST) if (folder / MANIFEST).is_file() else None
        if not isinstance(about, dict) or about.get("format") != FORMAT or not is_sealed(about):
            raise InputError(f"space.cache={folder} holds no maps; give a folder that imtok pack wrote")
        self.folder, self.about = folder, about
        if not (folder / KEYS).is_file() or sha256(folder / KEYS) != about["files"][KEYS]:
            raise InputError(f"{folder / KEYS} was altered or is missing; remove the folder and pack it again")
        self._shape = tuple(about["shape"])
        self._bytes = 4 * int(np.prod(self._shape))
        size = (folder / VALUES).stat().st_size if (folder / VALUES).is_file() else -1
        if size != about["maps"] * self._bytes:
            raise InputError(f"{folder / VALUES} was cut or is missing; remove the folder and pack it again")
        keys: np.ndarray = np.load(folder / KEYS, allow_pickle=False)
        heads = keys[:, :8].copy().view("<u8")[:, 0]  # numbers that can be sorted, unlike rows of bytes
        self._order = np.argsort(heads, kind="stable")
        self._heads, self._keys = heads[self._order], keys
        with (folder / VALUES).open("rb") as file:
            self._values = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def find(self, pixels: UInt8[Tensor, "3 h w"]) -> Float[Tensor, "..."] | None:
        """The map of a picture; None if it is not there."""
        key = key_of(pixels)
        head = np.frombuffer(key, "<u8", 1)[0]
        first, end = np.searchsorted(self._heads, head, "left"), np.searchsorted(self._heads, head, "right")
        for row in self._order[first:end].tolist():
            if self._keys[row].tobytes() == key:
                values = bytearray(self._values[row * self._bytes : (row + 1) * self._bytes])
                return torch.frombuffer(values, dtype=torch.float32).reshape(self._shape)
        return None


def net_hash(state: dict[str, Tensor]) -> str:
    """Sha256 of the weights of a net."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
