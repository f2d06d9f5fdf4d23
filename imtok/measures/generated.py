"""Generated images against a reference in the layout of ADM's evaluator: FID, sFID, IS, precision, recall, KID."""

import logging
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from imtok.bars import watched
from imtok.errors import InputError
from imtok.extractors.base import Extractor
from imtok.files import sha256
from imtok.measures.chosen import require_statistics
from imtok.measures.features import SUBSET
from imtok.measures.frechet import FeatureGaussian, FeatureStatistics, FrechetDistance, frechet_distance
from imtok.measures.inception_score import InceptionScore, inception_scores_in_order
from imtok.measures.kid import KID
from imtok.measures.precision_recall import PrecisionRecall
from imtok.measures.protocol import Protocol, protocol_id
from imtok.measures.stored import StoredImages, load_statistics, stored_images, stored_names

log = logging.getLogger(__name__)

_SPATIAL = ("mu_s", "sigma_s")
_PART = 5000  # images of a part of ADM's inception score
_FORMER = 10_000  # more images of the reference than these were left out of precision and recall by earlier versions


def score(
    images: Path,
    reference: Path,
    protocol: Protocol,
    device: str | torch.device = "cpu",
    batch_size: int = 64,
    further: Mapping[str, Path] | None = None,
) -> dict[str, Any]:
    """Measure a set of generated images.

    Args:
        images: A folder, read as by ``data=folder``, or an npz with uint8 images ``arr_0`` (n, h, w, 3).
        reference: Such an npz or folder, or an npz with the Inception's statistics ``mu`` and ``sigma`` (for sFID
            ``mu_s`` and ``sigma_s``), which decide distances where they are; alone they give no precision and recall.
            ADM's references hold the statistics of the training set, and 10,000 images for precision and recall, of
            which all are taken.
        protocol: Extractor and its resizer. Images are taken as they are: no crop.
        device: Where to compute.
        batch_size: Images at a time.
        further: More sets of images, of which only the distance to the same reference is measured, by what its name
            begins with: ``{"r": reconstructions}`` for ``rfid``. None = there are none.

    Returns:
        ``metrics``, ``absent``, ``warnings``, ``protocol`` with its ``id``, and the numbers of images.

    Raises:
        InputError: If a file is missing or damaged, or the weights are.
    """
    # Open both sides before any net is built.
    reader, names = stored_images(images, batch_size), stored_names(reference)
    other = stored_images(reference, batch_size, "reference") if "arr_0" in names else None
    # to other features than those that ADM's statistics are of, its images are the reference
    stored = other is None or ("mu" in names and protocol.of_inception)
    pooled = load_statistics(reference) if stored else None
    spatial = load_statistics(reference, *_SPATIAL) if stored and {*_SPATIAL} <= names else None
    remarks = (*reader.remarks, *(() if other is None else other.remarks), *_unlike_sizes(reader, other))
    notes = _said(dict.fromkeys(remarks))
    # Features of the reference, unless their statistics are stored.
    extractor = protocol.build().to(device)
    if pooled is not None:
        require_statistics(extractor, len(pooled.mean), f"{reference}: mu")
    sums = FeatureStatistics(extractor.dim)
    others = None if other is None else _watch(extractor, watched(other, other.count, "reference", len), device, sums)
    if others is not None and not stored:
        spatial = others.spatial
    pooled = pooled or sums.compute()
    # Features of the images, and the distance.
    distance = FrechetDistance(extractor.dim, pooled)
    seen = _watch(extractor, watched(reader, reader.count, "images", len), device, distance, keep=others is not None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        metrics = {f"g{extractor.distance}": float(distance.compute().item())}
        for short, path in (further or {}).items():
            other_distance = FrechetDistance(extractor.dim, pooled)
            for batch in stored_images(path, batch_size, f"further.{short}"):
                other_distance.update(extractor(batch.to(device)).features.cpu())
            metrics[f"{short}{extractor.distance}"] = float(other_distance.compute().item())
    notes += _said(dict.fromkeys(str(warning.message) for warning in caught))
    # Numbers that need more than pooled features: spatial ones, logits, rows of both sides.
    absent: dict[str, str] = {}
    if seen.spatial is not None and spatial is not None:
        _check_length(reference, _SPATIAL[0], spatial, len(seen.spatial.mean))
        metrics[f"gs{extractor.distance}"] = frechet_distance(seen.spatial, spatial).item()
    elif seen.spatial is not None:
        absent[f"gs{extractor.distance}"] = f"{reference} holds no {' and '.join(_SPATIAL)}"
    if seen.logits is not None:
        try:
            metrics |= _named(_inception_score(seen.logits, protocol), extractor)
        except InputError as error:
            absent[f"inception_score_{extractor.name}"] = str(error)
    try:
        if others is None or others.rows is None or seen.rows is None:
            raise InputError(f"{reference} holds statistics only, and no images")
        metrics |= _named(_neighbours(seen.rows, others.rows), extractor)
    except InputError as error:
        absent |= {f"{name}_{extractor.name}": str(error) for name in ("precision", "recall", "kid")}
    count = int(distance.count)
    facts = {
        **protocol.settings,
        "extractor_hash": extractor.hash[:16],
        "reference": sha256(reference)[:16] if reference.is_file() else f"{reference.name}, {pooled.count}",
        "statistics": "stored" if stored else "of the images",
        "n": count,
    }
    if protocol.preset == "adm":
        facts["inception_score"] = f"parts of {_PART} in order"
    compared = None if others is None or others.rows is None else len(others.rows)
    if compared is not None and compared > _FORMER:
        facts["precision_reference"] = compared
    return {
        "schema": 1,
        "images": count,
        "reference_images": compared,
        "metrics": metrics,
        "absent": absent,
        "warnings": notes,
        "protocol": {"id": protocol_id(facts), **facts},
    }


class _Seen(NamedTuple):
    """What a pass over images leaves behind, beside the sums of its pooled features."""

    rows: Tensor | None
    logits: Tensor | None
    spatial: FeatureGaussian | None


def _watch(
    extractor: Extractor,
    images: Iterable[Tensor],
    device: str | torch.device,
    sums: FeatureStatistics | FrechetDistance,
    keep: bool = True,
) -> _Seen:
    rows: list[Tensor] = []
    logits: list[Tensor] = []
    spatial: FeatureStatistics | None = None
    for batch in images:
        found = extractor(batch.to(device))
        sums.update(found.features.cpu())
        if keep:
            rows.append(found.features.cpu())
        if found.logits is not None:
            logits.append(found.logits.cpu())
        if found.spatial is not None:
            spatial = FeatureStatistics(found.spatial.shape[1]) if spatial is None else spatial
            spatial.update(found.spatial.cpu())
    return _Seen(
        rows=torch.cat(rows) if rows else None,
        logits=torch.cat(logits) if logits else None,
        spatial=None if spatial is None else spatial.compute(),
    )


def _check_length(path: Path, name: str, statistics: FeatureGaussian | None, length: int) -> None:
    if statistics is not None and len(statistics.mean) != length:
        raise InputError(f"{path}: {name} must have {length} values, got {len(statistics.mean)}")


def _named(values: dict[str, float], extractor: Extractor) -> dict[str, float]:
    return {f"{name}_{extractor.name}": value for name, value in values.items()}


def _said(notes: Iterable[str]) -> list[str]:
    """The notes, which the terminal shows at once."""
    notes = list(notes)
    for note in notes:
        log.warning("%s", note)
    return notes


def _unlike_sizes(images: StoredImages, reference: StoredImages | None) -> list[str]:
    """A warning if the two sides are not of one size; of statistics nobody knows."""
    if reference is None or (images.height, images.width) == (reference.height, reference.width):
        return []
    return [
        f"the images have {images.width}x{images.height} pixels and those of the reference "
        f"{reference.width}x{reference.height}; numbers are meant for one size: scale the images first"
    ]


def _inception_score(logits: Tensor, protocol: Protocol) -> dict[str, float]:
    if protocol.preset == "adm":
        scores = inception_scores_in_order(logits, _PART)
        values = {"inception_score": float(np.mean(scores))}
        return values if len(scores) == 1 else {**values, "inception_score_std": float(np.std(scores))}
    metric = InceptionScore(logits.shape[1], protocol.splits)
    metric.update(logits)
    values = metric.compute()
    return values if protocol.splits > 1 else {"inception_score": values["inception_score"]}


def _neighbours(rows: Tensor, others: Tensor) -> dict[str, float]:
    """Precision, recall and KID, which need the features themselves."""
    manifold = PrecisionRecall(rows.shape[1], others)
    manifold.update(rows)
    size = SUBSET if min(len(rows), len(others)) >= SUBSET else None
    kernel = KID(rows.shape[1], others, subset_size=size)
    kernel.update(rows)
    return manifold.compute() | kernel.compute()
