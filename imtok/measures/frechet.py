"""The Fréchet distance between two sets of feature vectors (Heusel et al., arXiv 1706.08500)."""

import warnings
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torchmetrics import Metric
from typing_extensions import override

from imtok.distributed import sum_over_ranks
from imtok.errors import InputError

FEW_IMAGES = 2048


class FeatureGaussian:
    """Mean and covariance of feature vectors, all that the Fréchet distance knows of a set of images.

    Args:
        count: How many vectors, at least 2.
        mean: Their mean.
        covariance: Their covariance with divisor ``count - 1``.

    Raises:
        InputError: If there are fewer than 2 vectors.
    """

    # no dataclass: torchmetrics walks through those and takes the axes off single numbers
    def __init__(self, count: int, mean: Float64[Tensor, " f"], covariance: Float64[Tensor, "f f"]) -> None:
        if count < 2:
            raise InputError(f"a Fréchet distance needs at least 2 images on each side, got {count}")
        self.count, self.mean, self.covariance = count, mean, covariance

    @cached_property
    def root(self) -> Float64[Tensor, "f r"]:
        """Some ``S`` with ``S S'`` the covariance, without columns that are nothing but rounding."""
        if self.count > len(self.mean):
            factor, failed = torch.linalg.cholesky_ex(self.covariance)
            if not failed:  # ten times as fast as eigenvectors, which singular covariances need
                return factor
        values, vectors = torch.linalg.eigh(self.covariance)
        rank = min(len(values), self.count - 1)
        return vectors[:, -rank:] * values[-rank:].clamp_min(0).sqrt()

    def to(self, device: torch.device) -> "FeatureGaussian":
        """The same on another device."""
        return (
            self
            if self.mean.device == device
            else FeatureGaussian(self.count, self.mean.to(device), self.covariance.to(device))
        )


def frechet_distance(first: FeatureGaussian, second: FeatureGaussian) -> Float64[Tensor, ""]:
    """``|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))``, exact where covariances are singular too.

    With square roots ``C = S S'`` the last trace is the nuclear norm of ``S1' S2`` (orthogonal Procrustes): no square
    root of a matrix that is not symmetric, no complex numbers, no epsilon, and never below zero. A covariance of N
    vectors has rank N - 1 at most; what rounding adds beyond it is cut off, as the root would make it large.

    Raises:
        ValueError: If the vectors differ in length.

    Example:
        >>> identity = torch.eye(3, dtype=torch.float64)
        >>> first = FeatureGaussian(10, torch.zeros(3, dtype=torch.float64), identity)
        >>> second = FeatureGaussian(10, torch.ones(3, dtype=torch.float64), 4 * identity)
        >>> round(frechet_distance(first, second).item(), 9)  # 3 for the means, 3 (2 - 1)^2 for the variances
        6.0
    """
    if first.mean.shape != second.mean.shape:
        raise ValueError(f"features must have the same length, got {len(first.mean)} and {len(second.mean)}")
    shift = (first.mean - second.mean).square().sum()
    common = torch.linalg.svdvals(first.root.T @ second.root).sum()
    return (shift + first.root.square().sum() + second.root.square().sum() - 2 * common).clamp_min(0)


class _Moments(Metric):
    """Sums over feature vectors. Batches, ranks and merged metrics add up, in memory that does not grow with them.

    States are summed by an all-reduce: gathering them, as torchmetrics would, takes 34 MB per rank on every rank.
    """

    full_state_update = False
    count: Tensor
    total: Tensor
    products: Tensor

    def __init__(self, dim: int, **settings: Any) -> None:
        super().__init__(**{"dist_sync_fn": lambda state, group: [sum_over_ranks(state)], **settings})
        if dim < 1:
            raise ValueError(f"dim must be at least 1, got {dim}")
        self.dim = dim
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros(dim, dtype=torch.float64), dist_reduce_fx="sum")
        # float32 would be off by more than the small eigenvalues
        self.add_state("products", torch.zeros(dim, dim, dtype=torch.float64), dist_reduce_fx="sum")

    @override
    def update(self, features: Float[Tensor, "b f"]) -> None:
        """Count images in.

        Args:
            features: A vector per image; summed in float64 whatever its precision.

        Raises:
            ValueError: If vectors have another length or are not finite.
        """
        check_features(features, self.dim)
        features = features.detach().to(self.total)
        self.count += len(features)
        self.total += features.sum(0)
        self.products += features.T @ features

    def gaussian(self) -> FeatureGaussian:
        """What the sums amount to."""
        count = int(self.count)
        mean = self.total / max(count, 1)
        covariance = (self.products - count * mean.outer(mean)) / max(count - 1, 1)
        return FeatureGaussian(count, mean, (covariance + covariance.T) / 2)


class FeatureStatistics(_Moments):
    """Mean and covariance of the features of a set of images: one side of a Fréchet distance.

    Args:
        dim: Length of a feature vector.
        **settings: Of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: If ``dim`` is not positive; in ``update``, if vectors have another length or are not finite.
        InputError: In ``compute``, if there are fewer than 2 images.

    Example:
        >>> statistics = FeatureStatistics(2)
        >>> statistics.update(torch.tensor([[0.0, 0.0], [2.0, 0.0]]))
        >>> statistics.compute().covariance.tolist()
        [[2.0, 0.0], [0.0, 0.0]]
    """

    @override
    def compute(self) -> FeatureGaussian:
        """The Gaussian of all images so far."""
        return self.gaussian()


class FrechetDistance(_Moments):
    """Fréchet distance of a set of images to a reference.

    The value falls as one over the number of images even if nothing else changes, so compare only values of the same
    number. ``reset`` leaves the reference alone; several metrics can share one.

    Args:
        dim: Length of a feature vector, as the extractor's ``dim``.
        reference: The other side: a stored Gaussian, or the metric that counts the originals of the same pass.
        **settings: Of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: If the reference is of other features; in ``update``, if vectors have another length or are not
            finite.
        InputError: In ``compute``, if there are fewer than 2 images on a side.

    Example:
        >>> originals = FeatureStatistics(4)
        >>> metric = FrechetDistance(4, reference=originals)
        >>> features = torch.randn(4000, 4)
        >>> originals.update(features)
        >>> metric.update(features + 2)
        >>> round(metric.compute().item(), 3)  # 4 channels, each shifted by 2
        16.0
    """

    is_differentiable = False
    higher_is_better = False
    convention = "float64 sums, covariance over N - 1, nuclear-norm form of the trace"

    def __init__(self, dim: int, reference: FeatureGaussian | FeatureStatistics, **settings: Any) -> None:
        super().__init__(dim, **{"compute_with_cache": False, **settings})
        length = reference.dim if isinstance(reference, FeatureStatistics) else len(reference.mean)
        if length != dim:
            raise ValueError(f"reference must be of features of length {dim}, got {length}")
        self.reference = reference

    @override
    def compute(self) -> Float64[Tensor, ""]:
        """The distance; warns if it is over few images or over copies of one."""
        measured = self.gaussian()
        reference = self.reference.compute() if isinstance(self.reference, FeatureStatistics) else self.reference
        for role, side in (("measured", measured), ("reference", reference)):
            if side.count < FEW_IMAGES:
                warnings.warn(
                    f"a Fréchet distance over {side.count} {role} images is far too large; take {FEW_IMAGES} or more, "
                    "and compare only values over as many",
                    stacklevel=2,
                )
            if side.covariance.trace() <= 1e-12 * side.mean.square().sum():
                warnings.warn(
                    f"all {side.count} {role} images have the same features: are they constant?", stacklevel=2
                )
        return frechet_distance(measured, reference.to(self.total.device))


def check_features(features: Float[Tensor, "b f"], dim: int) -> None:
    """Raise ValueError unless all vectors have length ``dim`` and are finite."""
    if features.shape[1] != dim:
        raise ValueError(f"features must have length {dim}, got {features.shape[1]}")
    finite = torch.isfinite(features).all(1)
    if not finite.all():
        raise ValueError(f"features must be finite, got NaN or infinity in row {int(finite.int().argmin())}")
