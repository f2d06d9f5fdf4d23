"""Improved precision and recall (Kynkaanniemi et al., arXiv 1904.06991), with the settings of ADM's evaluator."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from typing_extensions import override

from imtok.errors import InputError
from imtok.measures.rows import FeatureRows, RowMetric

_ROWS, _COLUMNS = 1024, 8192


def precision_recall(
    images: Float[Tensor, "n f"], reference: Float[Tensor, "m f"], neighbours: int = 3
) -> tuple[float, float]:
    """Which part of the images lies on the manifold of the reference, and the other way round.

    A manifold is the union of balls around its vectors, each reaching to the vector's k-th nearest neighbour.

    Args:
        images: Feature vectors.
        reference: Others.
        neighbours: k.

    Raises:
        InputError: If a side has no k neighbours.

    Example:
        >>> vectors = torch.arange(8.0)[:, None]
        >>> precision_recall(vectors, vectors), precision_recall(vectors, vectors + 100)
        ((1.0, 1.0), (0.0, 0.0))
    """
    if min(len(images), len(reference)) <= neighbours:
        raise InputError(
            f"precision and recall with {neighbours} neighbours need more images than that on each side, "
            f"got {len(images)} and {len(reference)}"
        )
    # the same for both sides, and the squared distances lose fewer digits
    centre = reference.mean(0)
    images, reference = images - centre, reference - centre
    precision = _inside(images, reference, _radii(reference, neighbours))
    recall = _inside(reference, images, _radii(images, neighbours))
    return precision.double().mean().item(), recall.double().mean().item()


class PrecisionRecall(RowMetric):
    """Precision and recall against a reference.

    ADM's evaluator computes squared distances in float16 where they are finite; here they are in the precision of
    the features, so the last digits differ. Numbers depend on how many images there are on each side: ADM's have
    50,000 images and 10,000 of reference.

    Args:
        dim: Length of a feature vector.
        reference: The other side: feature vectors, or the metric that keeps those of the same pass.
        neighbours: How many neighbours a ball reaches to, at least 1.
        **settings: Of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: If ``neighbours`` is not positive.
        InputError: In ``compute``, if there are too few images.

    Example:
        >>> metric = PrecisionRecall(1, reference=torch.arange(8.0)[:, None])
        >>> metric.update(torch.arange(4.0)[:, None])
        >>> metric.compute()
        {'precision': 1.0, 'recall': 0.875}
    """

    higher_is_better = True
    convention = "balls to the third neighbour, Euclidean, closed"

    def __init__(
        self, dim: int, reference: Float[Tensor, "m f"] | FeatureRows, neighbours: int = 3, **settings: Any
    ) -> None:
        super().__init__(dim, **settings)
        if neighbours < 1:
            raise ValueError(f"neighbours must be at least 1, got {neighbours}")
        self.reference, self.neighbours = reference, neighbours

    @override
    def compute(self) -> dict[str, float]:
        """``precision`` and ``recall``."""
        rows = self.all_rows()
        reference = self.reference.all_rows() if isinstance(self.reference, FeatureRows) else self.reference
        precision, recall = precision_recall(rows, reference.to(rows), self.neighbours)
        return {"precision": precision, "recall": recall}


def _radii(vectors: Float[Tensor, "n f"], neighbours: int) -> Float[Tensor, " n"]:
    """Squared distance of each vector to its k-th neighbour, by blocks."""
    radii: list[Tensor] = []
    for start in range(0, len(vectors), _ROWS):
        rows = vectors[start : start + _ROWS]
        nearest = rows.new_empty(len(rows), 0)
        for column in range(0, len(vectors), _COLUMNS):
            distances = _distances(rows, vectors[column : column + _COLUMNS])
            own = torch.arange(start, start + len(rows), device=rows.device)[:, None] == torch.arange(
                column, column + distances.shape[1], device=rows.device
            )
            # a vector is no neighbour of its own, and rounding must not make it one at a distance
            nearest = torch.cat([nearest, distances.masked_fill(own, torch.inf)], dim=1)
            nearest = nearest.topk(min(neighbours, nearest.shape[1]), largest=False).values
        radii.append(nearest[:, -1])
    return torch.cat(radii)


def _inside(
    vectors: Float[Tensor, "n f"], others: Float[Tensor, "m f"], radii: Float[Tensor, " m"]
) -> Bool[Tensor, " n"]:
    """Which vectors lie in a ball around one of the others."""
    found: list[Tensor] = []
    for rows in vectors.split(_ROWS):
        hit = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        for columns, reach in zip(others.split(_COLUMNS), radii.split(_COLUMNS), strict=True):
            hit |= (_distances(rows, columns) <= reach).any(1)
        found.append(hit)
    return torch.cat(found)


def _distances(first: Tensor, second: Tensor) -> Tensor:
    norms = first.square().sum(1)[:, None] + second.square().sum(1)
    return torch.addmm(norms, first, second.T, alpha=-2).clamp_min(0)
