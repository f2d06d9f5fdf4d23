"""Generated images against a reference in the layout of ADM's evaluator: gFID, inception score, precision, recall."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from imtok.errors import InputError
from imtok.evaluation.features import SUBSET
from imtok.evaluation.protocol import Protocol, protocol_id
from imtok.evaluation.stored import load_statistics, stored_images, stored_names
from imtok.files import sha256
from imtok.metrics.extractors.base import Extractor, Features
from imtok.metrics.frechet import FeatureStatistics, FrechetDistance, Gaussian
from imtok.metrics.inception_score import InceptionScore
from imtok.metrics.kid import KID
from imtok.metrics.precision_recall import PrecisionRecall

_PRECISION_REFERENCE = 10_000  # the first so many, as ADM's evaluator takes them


def score(
    images: Path, reference: Path, protocol: Protocol, device: str | torch.device = "cpu", batch_size: int = 64
) -> dict[str, Any]:
    """Measure a set of generated images.

    Args:
        images: A folder of JPEG, PNG and WebP files, or an npz with uint8 images ``arr_0`` (n, h, w, 3).
        reference: Such an npz or folder, or an npz with the Inception's statistics ``mu`` and ``sigma``, which decide
            the distance where they are; alone they give no precision and recall. ADM's references hold the statistics
            of the training set, and 10,000 images for precision and recall.
        protocol: Extractor and its resizer. Images are taken as they are: no crop.
        device: Where to compute.
        batch_size: Images at a time.

    Returns:
        ``metrics``, ``absent``, ``protocol`` with its ``id``, and the numbers of images.

    Raises:
        InputError: If a file is missing or damaged, or the weights are.
    """
    reader, names = stored_images(images, batch_size), stored_names(reference)
    other = stored_images(reference, batch_size) if "arr_0" in names else None
    # to other features than those that ADM's statistics are of, its images are the reference
    stored = other is None or ("mu" in names and protocol.extractor == "inception_tf")
    statistics = load_statistics(reference) if stored else None
    extractor = protocol.build().to(device)
    if statistics is not None and len(statistics.mean) != extractor.dim:
        raise InputError(f"{reference}: mu must have {extractor.dim} values, got {len(statistics.mean)}")
    others = torch.cat([found.features for found in _features(extractor, other, device)]) if other else None
    statistics = statistics or _gaussian(others, extractor.dim)
    distance = FrechetDistance(extractor.dim, statistics)
    rows: list[Tensor] = []
    logits: list[Tensor] = []
    for found in _features(extractor, reader, device):
        distance.update(found.features)
        if others is not None:
            rows.append(found.features)
        if found.logits is not None:
            logits.append(found.logits)
    metrics = {f"g{extractor.distance}": float(distance.compute().item())}
    absent: dict[str, str] = {}
    if logits:
        try:
            metrics |= _inception_score(torch.cat(logits))
        except InputError as error:
            absent["inception_score"] = str(error)
    if others is None:
        absent["precision"] = absent["recall"] = f"{reference} holds statistics only, and no images"
    else:
        try:
            metrics |= _neighbours(torch.cat(rows), others)
        except InputError as error:
            absent["precision"] = str(error)
    count = int(distance.count)
    facts = {
        **protocol.settings,
        "extractor_hash": extractor.hash[:16],
        "reference": sha256(reference)[:16] if reference.is_file() else f"{reference.name}, {statistics.count}",
        "statistics": "stored" if stored else "of the images",
        "n": count,
    }
    return {
        "schema": 1,
        "images": count,
        "reference_images": None if others is None else len(others),
        "metrics": metrics,
        "absent": absent,
        "protocol": {"id": protocol_id(facts), **facts},
    }


def _inception_score(logits: Tensor) -> dict[str, float]:
    metric = InceptionScore(logits.shape[1])
    metric.update(logits)
    return metric.compute()


def _neighbours(rows: Tensor, others: Tensor) -> dict[str, float]:
    """Precision, recall and KID, which need the features themselves."""
    manifold = PrecisionRecall(rows.shape[1], others[:_PRECISION_REFERENCE])
    manifold.update(rows)
    size = SUBSET if min(len(rows), len(others)) >= SUBSET else None
    kernel = KID(rows.shape[1], others, subset_size=size)
    kernel.update(rows)
    return manifold.compute() | kernel.compute()


def _gaussian(rows: Tensor | None, dim: int) -> Gaussian:
    metric = FeatureStatistics(dim)
    if rows is not None:
        metric.update(rows)
    return metric.compute()


def _features(extractor: Extractor, images: Iterable[Tensor], device: str | torch.device) -> Iterator[Features]:
    for batch in images:
        features, logits = extractor(batch.to(device))
        yield Features(features.cpu(), None if logits is None else logits.cpu())
