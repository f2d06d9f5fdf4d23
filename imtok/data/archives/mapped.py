"""Arrays that stay in their file, so that all processes of a machine share their pages."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from typing_extensions import Buffer, override

from imtok.files import canonical_json

_TYPES = {"U8": np.uint8, "I32": np.int32, "U32": np.uint32, "I64": np.int64, "U64": np.uint64}  # as they are sorted


class Mapped(np.ndarray):
    """An array in a file, which can only be read. A process that it is sent to maps the file too."""

    place: tuple[Any, ...] | None = None

    @override
    def __reduce__(self) -> Any:
        return super().__reduce__() if self.place is None else (mapped, self.place)


def mapped(path: str, dtype: str, shape: tuple[int, ...], offset: int) -> np.ndarray:
    """The array at a place of a file.

    Args:
        path: The file.
        dtype: Type of the numbers, as numpy names it.
        shape: Of the array.
        offset: Where its bytes begin.
    """
    if 0 in shape:  # the system maps no empty range
        return np.zeros(shape, dtype)
    array = np.memmap(path, dtype, "r", offset, shape).view(Mapped)
    array.place = (path, dtype, shape, offset)
    return array


def tensor_parts(arrays: dict[str, np.ndarray], about: dict[str, str]) -> Iterator[Buffer]:
    """A safetensors file, part by part: as the library lays it out, but with the header's keys in order.

    The library shuffles those of the metadata, and it has three copies of the arrays in memory.

    Args:
        arrays: Of whole numbers, by name.
        about: What the file says of itself.
    """
    kinds = {np.dtype(kind): name for name, kind in _TYPES.items()}
    order = sorted(arrays, key=lambda name: (-list(_TYPES).index(kinds[arrays[name].dtype]), name))
    header: dict[str, Any] = {"__metadata__": about}
    at = 0
    for name in order:
        array = arrays[name]
        places = [at, at + array.nbytes]
        header[name] = {"dtype": kinds[array.dtype], "shape": list(array.shape), "data_offsets": places}
        at += array.nbytes
    text = canonical_json(header).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in order:
        yield np.ascontiguousarray(arrays[name]).view(np.uint8).data if arrays[name].size else b""


def map_tensors(path: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """What a safetensors file says of itself, and its arrays, mapped and not read.

    Raises:
        SafetensorError: If its header is not one, or does not fit its size.
        ValueError: If it holds other numbers than whole ones.
    """
    with safe_open(str(path), "numpy") as file:  # which checks the header
        about = file.metadata() or {}
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    found = dict[str, np.ndarray]()
    for name, tensor in header.items():
        if name == "__metadata__":
            continue
        if tensor["dtype"] not in _TYPES:
            raise ValueError(f"{name} is of type {tensor['dtype']}")
        dtype = np.dtype(_TYPES[tensor["dtype"]]).str
        found[name] = mapped(str(path.absolute()), dtype, tuple(tensor["shape"]), 8 + size + tensor["data_offsets"][0])
    return about, found
