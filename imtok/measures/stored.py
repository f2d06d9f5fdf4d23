"""Images and statistics kept in files: folders, and npz in the layout of ADM's evaluator, read a batch at a time."""

import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from math import prod
from pathlib import Path
from typing import IO, cast

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float64, UInt8
from numpy.lib import format as npy
from torch import Tensor

from imtok.data.reading.decode import DecodeError
from imtok.data.sources.folder import FileSource
from imtok.errors import InputError
from imtok.measures.frechet import FeatureGaussian

ASSUMED = 50_000  # ADM's files of statistics do not say how many images they are of
ROUNDING = 1e-4  # of the largest eigenvalue: a covariance that was summed in float32 has some so far below zero

Batches = Iterator[UInt8[Tensor, "b 3 h w"]]


@dataclass(frozen=True)
class StoredImages:
    """Images of one size, read anew a batch at a time whenever they are iterated over.

    Attributes:
        height: Of each, in pixels.
        width: The same.
        remarks: What lies beside them and is not read.
        read: Begins to read.
        count: How many there are.
    """

    height: int
    width: int
    read: Callable[[], Batches]
    count: int
    remarks: tuple[str, ...] = ()

    def __iter__(self) -> Batches:
        return self.read()


def stored_images(path: Path, batch_size: int, name: str = "images") -> StoredImages:
    """The images of a folder, found and ordered as by ``data=folder``, or the ``arr_0`` of an npz; never all in memory.

    Args:
        path: The folder or file.
        batch_size: Images at a time.
        name: What errors call it: the key that it was given by.

    Raises:
        InputError: At once, if there is no image or a link to none, or an npz has none of uint8; while reading, if a
            file is damaged or images differ in size.
    """
    if not path.is_dir():
        return _from_npz(path, batch_size)
    source = FileSource(path, name=name)
    lost = np.flatnonzero(source.sizes < 0).tolist()
    if lost:
        raise InputError(f"{path / source.key(lost[0])} is a link to nothing; remove it")
    _, height, width = _decoded(source, path, 0).shape
    read = partial(_from_files, source, path, (height, width), batch_size)
    return StoredImages(height, width, read, len(source), source.remarks)


def stored_names(path: Path) -> set[str]:
    """Which arrays an npz holds; a folder is nothing but images, ``arr_0``.

    Raises:
        InputError: If it is neither.
    """
    if path.is_dir():
        return {"arr_0"}
    with _archive(path) as archive:
        return {name.removesuffix(".npy") for name in archive.namelist()}


def load_statistics(path: Path, mu: str = "mu", sigma: str = "sigma") -> FeatureGaussian:
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
    mean, covariance = _numbers(path, mu), _numbers(path, sigma)
    if mean.ndim != 1 or not len(mean) or covariance.shape != (len(mean), len(mean)):
        raise InputError(
            f"{path} must hold images arr_0, or statistics {mu} (f) and {sigma} (f, f), got {mu} {mean.shape} and "
            f"{sigma} {covariance.shape}"
        )
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise InputError(f"{path}: {mu} and {sigma} must be finite, got NaN or infinity; the file is damaged")
    if not np.allclose(covariance, covariance.T, atol=1e-6 * np.abs(covariance).max()):
        raise InputError(f"{path}: {sigma} must be symmetric; the file is damaged")
    found = torch.from_numpy(covariance)
    if torch.linalg.cholesky_ex(found).info:  # it is singular, or none
        values = torch.linalg.eigvalsh(found)
        if values[0] < -ROUNDING * values.abs().max():
            raise InputError(f"{path}: {sigma} must be a covariance, got the eigenvalue {values[0]:.3g} below zero")
    return FeatureGaussian(ASSUMED, torch.from_numpy(mean), found)


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """An npz; whatever fails within is one error that names it."""
    if not path.is_file():
        reason = "is no folder or file" if path.exists() else "does not exist"
        raise InputError(f"{path} {reason}; give a folder of images or an npz file")
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except InputError:
        raise
    except Exception as error:  # damaged archives and headers raise errors of a dozen kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{path} is no npz file of plain arrays ({reason})") from None


def _member(archive: zipfile.ZipFile, name: str) -> zipfile.ZipExtFile:
    return cast(zipfile.ZipExtFile, archive.open(f"{name}.npy"))


def _numbers(path: Path, name: str) -> Float64[np.ndarray, "..."]:
    with _archive(path) as archive, _member(archive, name) as stream:
        shape, _, dtype = _header(archive, stream, name)
    if dtype.kind not in "fiu" or dtype.itemsize > 8:
        raise InputError(f"{path}: {name} must hold real numbers of up to 64 bits, got {dtype} {shape}")
    with _archive(path) as archive, _member(archive, name) as stream:
        return npy.read_array(cast(IO[bytes], stream), allow_pickle=False).astype(np.float64)


def _header(archive: zipfile.ZipFile, stream: zipfile.ZipExtFile, name: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether columns come first, and type of the array that follows and is as long as they say."""
    version = npy.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"{name} is of version {version}")
    shape, fortran, dtype = (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(stream)
    size, expected = archive.getinfo(f"{name}.npy").file_size - stream.tell(), prod(shape) * dtype.itemsize
    if size != expected and not dtype.hasobject:
        raise ValueError(f"{name} holds {size} bytes, and its shape {shape} takes {expected}")
    return shape, fortran, dtype


def _from_npz(path: Path, batch_size: int) -> StoredImages:
    got = "none"
    with _archive(path) as archive:
        if "arr_0.npy" in archive.namelist():
            with _member(archive, "arr_0") as stream:
                shape, fortran, dtype = _header(archive, stream, "arr_0")
            if dtype == np.uint8 and len(shape) == 4 and shape[-1] == 3 and min(shape) > 0 and not fortran:
                return StoredImages(shape[1], shape[2], partial(_members, path, shape, batch_size), shape[0])
            got = f"{dtype} {shape}{' in Fortran order' if fortran else ''}"
    raise InputError(f"{path} must hold uint8 images arr_0 of shape (n, height, width, 3), got {got}")


def _members(path: Path, shape: tuple[int, ...], batch_size: int) -> Batches:
    with _archive(path) as archive, _member(archive, "arr_0") as stream:
        _header(archive, stream, "arr_0")
        for at in range(0, shape[0], batch_size):
            part = np.empty((min(batch_size, shape[0] - at), *shape[1:]), dtype=np.uint8)
            if stream.readinto(part.data.cast("B")) != part.nbytes:
                raise ValueError(f"arr_0 ends before image {at + len(part)} of {shape[0]}")
            yield rearrange(torch.from_numpy(part), "b h w c -> b c h w").contiguous()


def _from_files(source: FileSource, path: Path, size: tuple[int, int], batch_size: int) -> Batches:
    """Batches in order, each decoded by as many threads as the network has afterwards."""
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(threads) as pool:
        for at in range(0, len(source), batch_size):
            part = range(at, min(at + batch_size, len(source)))
            batch = torch.empty(len(part), 3, *size, dtype=torch.uint8)
            shares = (part[k::threads] for k in range(threads))
            list(pool.map(_fill, repeat(batch), repeat(source), repeat(path), shares, repeat(at)))
            yield batch


def _fill(batch: UInt8[Tensor, "b 3 h w"], source: FileSource, path: Path, share: range, first: int) -> None:
    """One thread's share of a batch."""
    for index in share:
        image = _decoded(source, path, index)
        if image.shape != batch.shape[1:]:
            sides, wanted = f"{image.shape[2]}x{image.shape[1]}", f"{batch.shape[3]}x{batch.shape[2]}"
            raise InputError(f"{path / source.key(index)}: images must all have {wanted} pixels, got {sides}")
        batch[index - first].numpy()[:] = image.numpy()  # torch would copy with a team of threads for each of these


def _decoded(source: FileSource, path: Path, index: int) -> UInt8[Tensor, "3 h w"]:
    try:
        return source.image(index)
    except DecodeError as error:
        raise InputError(f"{path / source.key(index)} cannot be read ({error})") from None
    except OSError as error:
        raise InputError(f"{path / source.key(index)} cannot be read ({error.strerror or error})") from None
