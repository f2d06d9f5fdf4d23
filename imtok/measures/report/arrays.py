"""What a report keeps for programs: counts and ids of codes, the pictures that it shows, a table of rates."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from imtok.errors import InputError
from imtok.files import write_bytes
from imtok.measures.pictures import Pictures
from imtok.measures.report.results import Report

PICTURES = "pictures.npz"


def write_arrays(report: Report, folder: Path) -> None:
    """Write ``codes.npz``, ``pictures.npz`` if there are any, and ``rd.csv`` if there is a table of rates.

    Args:
        report: What ``evaluate`` returned.
        folder: Exists.
    """
    _write(folder / "codes.npz", dict(report.arrays))
    pictures = report.pictures
    if pictures.keys:
        arrays = {
            "keys": np.array(pictures.keys),
            "originals": _framed(pictures.originals),
            "reconstructions": _framed(pictures.reconstructions),
        }
        sizes = [image.shape[-2:] for image in pictures.originals]
        if len(set(sizes)) > 1:
            arrays["sizes"] = np.array(sizes)
        _write(folder / PICTURES, arrays)
    rows = report.tables.get("rate")
    if rows:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)
        write_bytes(folder / "rd.csv", text.getvalue().encode())


def read_pictures(folder: Path) -> Pictures | None:
    """The pictures of a written report; None where it keeps none.

    Raises:
        InputError: If the file is damaged.
    """
    path = folder / PICTURES
    if not path.is_file():
        return None
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            keys = [str(key) for key in stored["keys"]]
            parts = [torch.from_numpy(stored[name]) for name in ("originals", "reconstructions")]
            sizes = stored["sizes"].tolist() if "sizes" in stored else [parts[0].shape[-2:]] * len(keys)
    except Exception as error:  # zipfile and numpy raise errors of many kinds
        raise InputError(f"{path} is damaged ({error}); evaluate again") from None
    shape = (len(keys), 3)
    whole = all(part.dtype == torch.uint8 and part.ndim == 4 and part.shape[:2] == shape for part in parts)
    if not whole or parts[0].shape != parts[1].shape or len(sizes) != len(keys):
        raise InputError(f"{path} is damaged (its pictures are not {len(keys)} x 3 x height x width); evaluate again")
    originals, made = ([one[:, :h, :w] for one, (h, w) in zip(part, sizes, strict=True)] for part in parts)
    return Pictures(len(keys), keys, originals, made)


def _framed(images: Sequence[UInt8[Tensor, "3 _ _"]]) -> np.ndarray:
    """Pictures in one array, each in the top left corner of a black one as large as the largest."""
    height, width = (max(image.shape[axis] for image in images) for axis in (-2, -1))
    framed = np.zeros((len(images), 3, height, width), np.uint8)
    for place, image in enumerate(images):
        framed[place, :, : image.shape[-2], : image.shape[-1]] = image.numpy()
    return framed


def _write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    write_bytes(path, buffer.getvalue())
