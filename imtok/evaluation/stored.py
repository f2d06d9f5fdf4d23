"""Images and statistics kept in files: folders, and npz in the layout of ADM's evaluator, read a batch at a time."""

import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import repeat
from math import prod
from pathlib import Path
from typing import IO, cast

import numpy as np
import torch
from einops import rearrange
from jaxtyping import UInt8
from numpy.lib import format as npy
from torch import Tensor

from imtok.data.decode import DecodeError, decode_image
from imtok.data.headers import SUFFIXES
from imtok.errors import InputError
from imtok.metrics.frechet import Gaussian

ASSUMED = 50_000  # ADM's files of statistics do not say how many images they are of
_SUFFIXES = tuple(suffix.decode() for suffix in SUFFIXES)


def stored_images(path: Path, batch_size: int) -> Iterator[UInt8[Tensor, "b 3 h w"]]:
    """The images of a folder, in the order of their names, or the ``arr_0`` of an npz, never all in memory.

    Raises:
        InputError: At once, if there is no image or an npz has none of uint8; while reading, if a file is damaged or
            images differ in size.
    """
    if not path.is_dir():
        return _from_npz(path, batch_size)
    files = sorted(file for file in path.rglob("*") if file.name.lower().endswith(_SUFFIXES))
    if not files:
        raise InputError(f"{path} holds no JPEG, PNG or WebP file")
    return _from_files(files, batch_size)


def stored_names(path: Path) -> set[str]:
    """Which arrays an npz holds; a folder is nothing but images, ``arr_0``.

    Raises:
        InputError: If it is neither.
    """
    if path.is_dir():
        return {"arr_0"}
    with _archive(path) as archive:
        return {name.removesuffix(".npy") for name in archive.namelist()}


def load_statistics(path: Path, mu: str = "mu", sigma: str = "sigma") -> Gaussian:
    """What an npz in the layout of ADM's evaluator and pytorch-fid says about features.

    Args:
        path: The file.
        mu: Name of the mean; ``mu_s`` is that of sFID's features.
        sigma: Name of the covariance.

    Raises:
        InputError: If it says nothing, or its numbers are not those of a covariance.
    """
    if not {mu, sigma} <= stored_names(path):
        raise InputError(f"{path} must hold images arr_0, or statistics {mu} (f) and {sigma} (f, f)")
    mean, covariance = _array(path, mu), _array(path, sigma)
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise InputError(f"{path} must hold images arr_0, or statistics {mu} (f) and {sigma} (f, f)")
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise InputError(f"{path}: {mu} and {sigma} must be finite, got NaN or infinity; the file is damaged")
    if not np.allclose(covariance, covariance.T, atol=1e-6):
        raise InputError(f"{path}: {sigma} must be symmetric; the file is damaged")
    return Gaussian(ASSUMED, torch.from_numpy(mean).double(), torch.from_numpy(covariance).double())


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """An npz; whatever fails within is one error that names it."""
    if not path.is_file():
        raise InputError(f"{path} does not exist; give a folder of images or an npz file")
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (OSError, ValueError, EOFError, RuntimeError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path} is no npz file of plain arrays ({str(error).splitlines()[0]})") from None


def _member(archive: zipfile.ZipFile, name: str) -> zipfile.ZipExtFile:
    return cast(zipfile.ZipExtFile, archive.open(f"{name}.npy"))


def _array(path: Path, name: str) -> np.ndarray:
    with _archive(path) as archive, _member(archive, name) as stream:
        return cast(np.ndarray, npy.read_array(cast(IO[bytes], stream), allow_pickle=False))


def _header(stream: zipfile.ZipExtFile) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether columns come first, and type of the array that follows."""
    version = npy.read_magic(stream)
    return npy.read_array_header_1_0(stream) if version == (1, 0) else npy.read_array_header_2_0(stream)


def _from_npz(path: Path, batch_size: int) -> Iterator[UInt8[Tensor, "b 3 h w"]]:
    got = None
    with _archive(path) as archive:
        if "arr_0.npy" in archive.namelist():
            with _member(archive, "arr_0") as stream:
                shape, fortran, dtype = _header(stream)
                size, expected = archive.getinfo("arr_0.npy").file_size - stream.tell(), prod(shape) * dtype.itemsize
            if size != expected:
                raise ValueError(f"arr_0 holds {size} bytes, and its shape {shape} takes {expected}")
            if dtype == np.uint8 and len(shape) == 4 and shape[-1] == 3 and min(shape) > 0 and not fortran:
                return _members(path, shape, batch_size)
            got = f"{dtype} {shape}{' in Fortran order' if fortran else ''}"
    raise InputError(f"{path} must hold uint8 images arr_0 of shape (n, height, width, 3), got {got}")


def _members(path: Path, shape: tuple[int, ...], batch_size: int) -> Iterator[UInt8[Tensor, "b 3 h w"]]:
    with _archive(path) as archive, _member(archive, "arr_0") as stream:
        _header(stream)
        for at in range(0, shape[0], batch_size):
            part = np.empty((min(batch_size, shape[0] - at), *shape[1:]), dtype=np.uint8)
            if stream.readinto(part.data.cast("B")) != part.nbytes:
                raise ValueError(f"arr_0 ends before image {at + len(part)} of {shape[0]}")
            yield rearrange(torch.from_numpy(part), "b h w c -> b c h w").contiguous()


def _from_files(files: list[Path], batch_size: int) -> Iterator[UInt8[Tensor, "b 3 h w"]]:
    """Batches in order, each decoded by as many threads as the network has afterwards."""
    shape, threads = _decoded(files[0]).shape, torch.get_num_threads()
    with ThreadPoolExecutor(threads) as pool:
        for at in range(0, len(files), batch_size):
            part = files[at : at + batch_size]
            batch = torch.empty(len(part), *shape, dtype=torch.uint8)
            list(pool.map(_fill, repeat(batch), repeat(part), (range(k, len(part), threads) for k in range(threads))))
            yield batch


def _fill(batch: UInt8[Tensor, "b 3 h w"], files: list[Path], share: range) -> None:
    """One thread's share of a batch."""
    for index in share:
        image = _decoded(files[index])
        if image.shape != batch.shape[1:]:
            sides = f"{image.shape[2]}x{image.shape[1]}"
            raise InputError(
                f"{files[index]}: images must all have {batch.shape[3]}x{batch.shape[2]} pixels, got {sides}"
            )
        batch[index].numpy()[:] = image.numpy()  # torch would copy with a team of threads for each of these


def _decoded(file: Path) -> UInt8[Tensor, "3 h w"]:
    try:
        return decode_image(file.read_bytes(), file.name)
    except DecodeError as error:
        raise InputError(f"{file} cannot be read ({error})") from None
