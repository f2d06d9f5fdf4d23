"""Kernel inception distance (Binkowski et al., arXiv 1801.01401): unbiased, so that few images suffice."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from typing_extensions import override

from imtok.errors import InputError
from imtok.measures.rows import FeatureRows, RowMetric

_BLOCK = 4096


def kernel_distance(first: Float[Tensor, "n f"], second: Float[Tensor, "m f"]) -> float:
    """Unbiased squared maximum mean discrepancy under the kernel ``(x . y / f + 1)^3``, in float64.

    Its expectation is 0 for two sets of one distribution, so it can be negative.

    Args:
        first: Feature vectors, at least 2.
        second: Others, at least 2.

    Raises:
        InputError: If there are fewer.

    Example:
        >>> round(kernel_distance(torch.zeros(3, 2), torch.ones(3, 2)), 6)  # 1 + 8 - 2
        7.0
    """
    n, m = len(first), len(second)
    if min(n, m) < 2:
        raise InputError(f"a kernel distance needs at least 2 images on each side, got {n} and {m}")
    within = (_kernel_sum(first, first) - _own_kernel_sum(first)) / (n * (n - 1))
    others = (_kernel_sum(second, second) - _own_kernel_sum(second)) / (m * (m - 1))
    return (within + others - 2 * _kernel_sum(first, second) / (n * m)).item()


def kernel_distances(
    first: Float[Tensor, "n f"], second: Float[Tensor, "m f"], subsets: int, subset_size: int, seed: int
) -> list[float]:
    """The distance between random subsets, as published values are made of: the same draws as torch-fidelity's.

    Args:
        first: Feature vectors.
        second: Others.
        subsets: How many pairs of subsets.
        subset_size: Vectors in each, drawn without replacement.
        seed: Of the draws.

    Raises:
        InputError: If a side has fewer vectors than a subset.
    """
    if min(len(first), len(second)) < subset_size:
        raise InputError(
            f"KID over subsets of {subset_size} images needs as many on each side, got {len(first)} and {len(second)}; "
            "give a smaller subset_size, or subset_size=null for one estimate over all images"
        )
    generator = np.random.RandomState(seed)
    distances: list[float] = []
    for _ in range(subsets):
        rows = torch.from_numpy(generator.choice(len(first), subset_size, replace=False)).to(first.device)
        others = torch.from_numpy(generator.choice(len(second), subset_size, replace=False)).to(second.device)
        distances.append(kernel_distance(first[rows], second[others]))
    return distances


class KID(RowMetric):
    """Kernel inception distance to a reference.

    ``kid`` is the mean over subsets and ``kid_std`` their standard deviation (divisor: their number), as published
    values are. Without subsets it is one estimate over all images, which varies least and costs N squared.

    Args:
        dim: Length of a feature vector.
        reference: The other side: feature vectors, or the metric that keeps those of the same pass.
        subsets: How many pairs of subsets.
        subset_size: Images in each, at least 2; None = all images, once.
        seed: Of the draws.
        **settings: Of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: If a number is out of range.
        InputError: In ``compute``, if there are too few images.

    Example:
        >>> metric = KID(2, reference=torch.ones(5, 2), subset_size=None)
        >>> metric.update(torch.zeros(5, 2))
        >>> round(metric.compute()["kid"], 6)
        7.0
    """

    higher_is_better = False
    convention = "unbiased, polynomial kernel of degree 3, mean over seeded subsets"

    def __init__(
        self,
        dim: int,
        reference: Float[Tensor, "m f"] | FeatureRows,
        subsets: int = 100,
        subset_size: int | None = 1000,
        seed: int = 2020,
        **settings: Any,
    ) -> None:
        super().__init__(dim, **settings)
        if subsets < 1 or (subset_size is not None and subset_size < 2):
            raise ValueError(f"subsets must be at least 1 and subset_size at least 2, got {subsets} and {subset_size}")
        self.reference = reference
        self.subsets, self.subset_size, self.seed = subsets, subset_size, seed

    @override
    def update(self, features: Float[Tensor, "b f"], index: Int64[Tensor, " b"] | None = None) -> None:
        super().update(features, index)

    @override
    def compute(self) -> dict[str, float]:
        """``kid`` and, over subsets, ``kid_std``."""
        rows = self.all_rows()
        reference = self.reference.all_rows() if isinstance(self.reference, FeatureRows) else self.reference
        reference = reference.to(rows.device)
        if self.subset_size is None:
            return {"kid": kernel_distance(rows, reference)}
        distances = kernel_distances(rows, reference, self.subsets, self.subset_size, self.seed)
        return {"kid": float(np.mean(distances)), "kid_std": float(np.std(distances))}


def _kernel_sum(first: Tensor, second: Tensor) -> Tensor:
    """The kernel summed over all pairs, block by block."""
    total = torch.zeros((), dtype=torch.float64, device=first.device)
    for rows in first.split(_BLOCK):
        for others in second.split(_BLOCK):
            total += (rows.double() @ others.double().T / first.shape[1] + 1).pow(3).sum()
    return total


def _own_kernel_sum(rows: Tensor) -> Tensor:
    """The kernel of each vector with itself, summed."""
    return (rows.double().square().sum(1) / rows.shape[1] + 1).pow(3).sum()
