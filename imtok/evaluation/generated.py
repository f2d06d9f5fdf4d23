"""Generated images against a reference in the layout of ADM's evaluator: gFID, inception score, precision, recall."""

import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import UInt8
from torch import Tensor

from imtok.data.decode import DecodeError, decode_image
from imtok.data.headers import SUFFIXES
from imtok.errors import InputError
from imtok.evaluation.features import SUBSET
from imtok.evaluation.protocol import Protocol, protocol_id
from imtok.files import sha256
from imtok.metrics.extractors.base import Extractor
from imtok.metrics.frechet import FeatureStatistics, FrechetDistance, Gaussian
from imtok.metrics.inception_score import InceptionScore
from imtok.metrics.kid import KID
from imtok.metrics.precision_recall import PrecisionRecall

_ASSUMED = 50_000  # ADM's files of statistics do not say how many images they are of
_PRECISION_REFERENCE = 10_000  # the first so many, as ADM's evaluator takes them


def score(
    images: Path, reference: Path, protocol: Protocol, device: str | torch.device = "cpu", batch_size: int = 64
) -> dict[str, Any]:
    """Measure a set of generated images.

    Args:
        images: A folder of JPEG, PNG and WebP files, or an npz with uint8 images ``arr_0`` (n, h, w, 3).
        reference: Such an npz or folder, or one with the statistics ``mu`` and ``sigma`` alone, which gives no
            precision and recall.
        protocol: Extractor and its resizer. Images are taken as they are: no crop.
        device: Where to compute.
        batch_size: Images at a time.

    Returns:
        ``metrics``, ``absent``, ``protocol`` with its ``id``, and the numbers of images.

    Raises:
        InputError: If a file is missing or damaged, or the weights are.
    """
    reader, other = read_images(images, batch_size), None
    statistics = _statistics(reference)
    if statistics is None:
        other = read_images(reference, batch_size)
    extractor = protocol.build().to(device)
    rows, logits = _features(extractor, reader, device)
    others = _features(extractor, other, device)[0] if other is not None else None
    reference_side = statistics or _gaussian(others, extractor.dim)
    if len(reference_side.mean) != extractor.dim:
        raise InputError(f"{reference}: mu must have {extractor.dim} values, got {len(reference_side.mean)}")
    distance = FrechetDistance(extractor.dim, reference_side)
    distance.update(rows)
    metrics = {f"g{extractor.distance}": float(distance.compute().item())}
    absent: dict[str, str] = {}
    if logits is not None:
        try:
            metric = InceptionScore(logits.shape[1])
            metric.update(logits)
            metrics |= metric.compute()
        except InputError as error:
            absent["inception_score"] = str(error)
    if others is None:
        absent["precision"] = absent["recall"] = f"{reference} holds statistics only, and no images"
    else:
        try:
            manifold = PrecisionRecall(extractor.dim, others[:_PRECISION_REFERENCE])
            manifold.update(rows)
            metrics |= manifold.compute()
            size = SUBSET if min(len(rows), len(others)) >= SUBSET else None
            kernel = KID(extractor.dim, others, subset_size=size)
            kernel.update(rows)
            metrics |= kernel.compute()
        except InputError as error:
            absent["precision"] = str(error)
    facts = {
        **protocol.settings,
        "extractor_hash": extractor.hash[:16],
        "reference": sha256(reference)[:16] if reference.is_file() else f"{reference.name}, {reference_side.count}",
        "n": len(rows),
    }
    return {
        "schema": 1,
        "images": len(rows),
        "reference_images": None if others is None else len(others),
        "metrics": metrics,
        "absent": absent,
        "protocol": {"id": protocol_id(facts), **facts},
    }


def read_images(path: Path, batch_size: int) -> Iterator[UInt8[Tensor, "b 3 h w"]]:
    """The images of a folder, in the order of their names, or of an npz; nothing is read before the first is asked for.

    Raises:
        InputError: If there is none, one is damaged, or they differ in size.
    """
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.name.lower().endswith(_SUFFIXES))
        if not files:
            raise InputError(f"{path} holds no JPEG, PNG or WebP file")
        return _from_files(files, batch_size)
    pixels = _load(path, "arr_0")
    if pixels is None or pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3 or not len(pixels):
        shape = None if pixels is None else f"{pixels.dtype} {pixels.shape}"
        raise InputError(f"{path} must hold uint8 images arr_0 of shape (n, height, width, 3), got {shape}")
    parts = (pixels[at : at + batch_size] for at in range(0, len(pixels), batch_size))
    return (rearrange(torch.from_numpy(part), "b h w c -> b c h w").contiguous() for part in parts)


_SUFFIXES = tuple(suffix.decode() for suffix in SUFFIXES)


def _from_files(files: list[Path], batch_size: int) -> Iterator[UInt8[Tensor, "b 3 h w"]]:
    """Batches in order, each decoded by as many threads as the network has afterwards."""
    first: tuple[int, ...] | None = None
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for at in range(0, len(files), batch_size):
            batch = files[at : at + batch_size]
            images = list(pool.map(_read, batch))
            first = first or tuple(images[0].shape)
            for file, image in zip(batch, images, strict=True):
                if tuple(image.shape) != first:
                    sides = f"{image.shape[2]}x{image.shape[1]}"
                    raise InputError(f"{file}: images must all have {first[2]}x{first[1]} pixels, got {sides}")
            yield torch.stack(images)


def _read(file: Path) -> UInt8[Tensor, "3 h w"]:
    try:
        return decode_image(file.read_bytes(), file.name)
    except DecodeError as error:
        raise InputError(f"{file} cannot be read ({error})") from None


def _load(path: Path, name: str) -> np.ndarray | None:
    if not path.is_file():
        raise InputError(f"{path} does not exist; give a folder of images or an npz file")
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            return file[name] if name in file.files else None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError, KeyError) as error:
        raise InputError(f"{path} is no npz file of plain arrays ({str(error).splitlines()[0]})") from None


def _statistics(path: Path) -> Gaussian | None:
    """What an npz says about features, where it does."""
    if path.is_dir() or _load(path, "arr_0") is not None:
        return None
    return load_statistics(path)


def load_statistics(path: Path) -> Gaussian:
    """``mu`` and ``sigma`` of an npz in the layout of ADM's evaluator and pytorch-fid.

    Raises:
        InputError: If it is none, or its numbers are not those of a covariance.
    """
    mean, covariance = _load(path, "mu"), _load(path, "sigma")
    if mean is None or covariance is None or mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise InputError(f"{path} must hold images arr_0, or statistics mu (f) and sigma (f, f)")
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise InputError(f"{path}: mu and sigma must be finite, got NaN or infinity; the file is damaged")
    if not np.allclose(covariance, covariance.T, atol=1e-6):
        raise InputError(f"{path}: sigma must be symmetric; the file is damaged")
    return Gaussian(_ASSUMED, torch.from_numpy(mean).double(), torch.from_numpy(covariance).double())


def _gaussian(rows: Tensor | None, dim: int) -> Gaussian:
    metric = FeatureStatistics(dim)
    if rows is not None:
        metric.update(rows)
    return metric.compute()


def _features(
    extractor: Extractor, images: Iterator[Tensor], device: str | torch.device
) -> tuple[Tensor, Tensor | None]:
    found = [extractor(batch.to(device)) for batch in images]
    rows = torch.cat([features.features.cpu() for features in found])
    logits = [features.logits.cpu() for features in found if features.logits is not None]
    return rows, torch.cat(logits) if logits else None
