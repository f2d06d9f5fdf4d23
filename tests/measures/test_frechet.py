"""The Fréchet distance is the closed form where there is one, and the peers' value where there is none."""

import re
import warnings

import numpy as np
import pytest
import scipy.linalg
import torch
from torch_fidelity.metric_fid import fid_statistics_to_metric
from torchmetrics.image.fid import _compute_fid

from imtok.errors import InputError
from imtok.measures.frechet import FeatureGaussian, FeatureStatistics, FrechetDistance, frechet_distance

D = 256
MANY = 5000


def gaussian(covariance, mean=None, count=MANY):
    mean = torch.zeros(len(covariance)) if mean is None else mean
    return FeatureGaussian(count, mean.double(), covariance.double())


def random_covariance(d=D):
    factor = torch.randn(d, 2 * d, dtype=torch.float64)
    return factor @ factor.T / (2 * d)


def rotation(d=D):
    return torch.linalg.qr(torch.randn(d, d, dtype=torch.float64)).Q


def of(features):
    """The Gaussian of rows, by numpy in two passes."""
    covariance = np.cov(features.double().numpy(), rowvar=False)
    return FeatureGaussian(len(features), features.double().mean(0), torch.from_numpy(covariance))


def test_a_shift_alone_counts_squared():
    covariance, shift = random_covariance(), torch.randn(D, dtype=torch.float64)
    value = frechet_distance(gaussian(covariance), gaussian(covariance, shift))
    assert value.item() == pytest.approx(shift.square().sum().item(), rel=5e-13)


def test_isotropic_variances():
    value = frechet_distance(gaussian(3.0 * torch.eye(D)), gaussian(0.5 * torch.eye(D)))
    assert value.item() == pytest.approx(D * (3**0.5 - 0.5**0.5) ** 2, rel=1e-13)


@pytest.mark.parametrize("basis", [torch.eye(D, dtype=torch.float64), rotation()], ids=["diagonal", "commuting"])
def test_covariances_with_a_common_basis(basis):
    v, w = torch.rand(D, dtype=torch.float64), torch.rand(D, dtype=torch.float64)
    value = frechet_distance(gaussian(basis * v @ basis.T), gaussian(basis * w @ basis.T))
    assert value.item() == pytest.approx((v.sqrt() - w.sqrt()).square().sum().item(), rel=7e-13)


def test_two_dimensions_by_the_determinant():
    for _ in range(20):
        a, b = random_covariance(2), random_covariance(2)
        root = (torch.trace(a @ b) + 2 * (a.det() * b.det()).sqrt()).sqrt()
        expected = (a.trace() + b.trace() - 2 * root).item()
        assert frechet_distance(gaussian(a), gaussian(b)).item() == pytest.approx(expected, abs=1e-14, rel=1e-12)


def test_it_is_symmetric_rotates_and_scales():
    a, b = gaussian(random_covariance(), torch.randn(D)), gaussian(random_covariance(), torch.randn(D))
    value, q = frechet_distance(a, b).item(), rotation()
    assert frechet_distance(b, a).item() == pytest.approx(value, rel=5e-13)
    turned = [gaussian(q @ side.covariance @ q.T, q @ side.mean) for side in (a, b)]
    assert frechet_distance(*turned).item() == pytest.approx(value, rel=5e-13)
    scaled = [gaussian(9 * side.covariance, 3 * side.mean) for side in (a, b)]
    assert frechet_distance(*scaled).item() == pytest.approx(9 * value, rel=5e-13)


@pytest.mark.parametrize("count", [50, 2000])
def test_a_set_has_no_distance_to_itself(count):
    side = of(torch.randn(count, D) @ torch.randn(D, D))
    assert abs(frechet_distance(side, side).item()) < 1e-9 * side.covariance.trace().item()


def test_singular_covariances():
    covariance = random_covariance()
    nothing = gaussian(torch.zeros(D, D))
    trace = covariance.trace().item()
    assert frechet_distance(nothing, gaussian(covariance)).item() == pytest.approx(trace, rel=1e-12)
    u, v = rotation()[:, :2].T
    value = frechet_distance(gaussian(2 * u.outer(u)), gaussian(3 * v.outer(v)))
    assert value.item() == pytest.approx(5, abs=1e-6)


def test_it_is_never_negative():
    for count in (3, 40, 600):
        features = torch.randn(count, D)
        other = features + 1e-7 * torch.randn(count, D)
        assert frechet_distance(of(features), of(other)).item() >= 0


def test_fewer_images_than_features_are_exact():
    """The nuclear norm of the centred features themselves is the exact value, without any square root."""
    x, y = (torch.randn(60, D, dtype=torch.float64) @ torch.randn(D, D, dtype=torch.float64) for _ in range(2))
    cx, cy = x - x.mean(0), y - y.mean(0)
    common = torch.linalg.svdvals(cx @ cy.T).sum() / 59
    expected = (x.mean(0) - y.mean(0)).square().sum() + (cx.square().sum() + cy.square().sum()) / 59 - 2 * common
    assert frechet_distance(of(x), of(y)).item() == pytest.approx(expected.item(), rel=1e-11)


def test_the_peers_agree():
    x, y = torch.randn(600, D), 0.7 * torch.randn(500, D) + 0.1
    a, b = of(x), of(y)
    ours = frechet_distance(a, b).item()
    theirs = _compute_fid(a.mean, a.covariance, b.mean, b.covariance).item()
    stats = [{"mu": side.mean.numpy(), "sigma": side.covariance.numpy()} for side in (a, b)]
    fidelity = fid_statistics_to_metric(*stats, verbose=False)["frechet_inception_distance"]
    product = torch.from_numpy(scipy.linalg.sqrtm((a.covariance @ b.covariance).numpy()).real)
    classic = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * product.trace()
    for value in (theirs, fidelity, classic.item()):
        assert ours == pytest.approx(value, rel=1e-9)


@pytest.fixture
def features():
    return torch.randn(1000, 64) @ torch.randn(64, 64) + 10


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_batches_and_their_order_do_not_matter(features, size):
    expected = of(features)
    metric = FeatureStatistics(64)
    for rows in torch.randperm(1000).split(size):
        metric.update(features[rows])
    found = metric.compute()
    assert found.count == 1000
    torch.testing.assert_close(found.mean, expected.mean, rtol=1e-13, atol=1e-12)
    torch.testing.assert_close(found.covariance, expected.covariance, rtol=0, atol=2e-12 * found.covariance.max())


def test_merged_metrics_are_one(features):
    whole, first, second = FeatureStatistics(64), FeatureStatistics(64), FeatureStatistics(64)
    whole.update(features)
    first.update(features[:300])
    second.update(features[300:])
    first.merge_state(second)
    torch.testing.assert_close(first.compute().covariance, whole.compute().covariance, rtol=1e-11, atol=1e-10)


@pytest.mark.filterwarnings("ignore:a Fréchet distance over")
def test_reset_keeps_the_reference(features):
    originals = FeatureStatistics(64)
    originals.update(features)
    metric = FrechetDistance(64, originals)
    metric.update(features[:500] + 1)
    first = metric.compute().item()
    metric.reset()
    metric.update(features[:500] + 1)
    assert metric.compute().item() == first
    assert FrechetDistance(64, originals.compute()).reference.count == 1000


@pytest.mark.filterwarnings("ignore:a Fréchet distance over")
def test_a_reference_that_grows_is_read_anew(features):
    originals = FeatureStatistics(64)
    metric = FrechetDistance(64, originals)
    originals.update(features[:500])
    metric.update(features)
    first = metric.compute().item()
    originals.update(features[500:])
    assert metric.compute().item() < first / 1e6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_sums_are_float64_whatever_the_features(dtype):
    features = (torch.randn(4000, 8) * 0.01 + 3).to(dtype)
    metric = FeatureStatistics(8)
    for part in features.split(10):
        metric.update(part)
    torch.testing.assert_close(metric.compute().covariance, of(features).covariance, rtol=1e-8, atol=1e-13)
    assert metric.half().products.dtype == torch.float64


def test_memory_does_not_grow_with_images():
    metric = FeatureStatistics(64)
    sizes = []
    for _ in range(3):
        metric.update(torch.randn(500, 64))
        sizes.append(sum(state.numel() for state in (metric.count, metric.total, metric.products)))
    assert sizes == [1 + 64 + 64 * 64] * 3


def test_few_images_are_warned_of_and_one_is_refused(features):
    metric = FrechetDistance(64, of(torch.randn(2048, 64)))
    metric.update(features)
    with pytest.warns(UserWarning, match="over 1000 measured images is far too large; take 2048 or more"):
        metric.compute()
    metric.reset()
    metric.update(features[:1])
    with pytest.raises(InputError, match="needs at least 2 images on each side, got 1"):
        metric.compute()
    enough = FrechetDistance(64, of(torch.randn(2048, 64)))
    enough.update(torch.randn(2048, 64))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        enough.compute()


def test_constant_images_are_warned_of_and_have_a_distance():
    metric = FrechetDistance(8, of(torch.randn(3000, 8)))
    metric.update(torch.full((3000, 8), 0.3))
    with pytest.warns(UserWarning, match="all 3000 measured images have the same features: are they constant"):
        value = metric.compute()
    reference = metric.reference
    expected = reference.covariance.trace() + (reference.mean - torch.full((8,), 0.3).double()).square().sum()
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)


def test_features_that_cannot_be_are_refused(features):
    metric = FeatureStatistics(64)
    features[5, 3] = float("nan")
    with pytest.raises(ValueError, match="must be finite, got NaN or infinity in row 5"):
        metric.update(features)
    with pytest.raises(ValueError, match="must have length 64, got 63"):
        metric.update(features[:, :63])
    with pytest.raises(ValueError, match="reference must be of features of length 8, got 64"):
        FrechetDistance(8, metric)
    with pytest.raises(ValueError, match=re.escape("features must have the same length, got 8 and 9")):
        frechet_distance(of(torch.randn(10, 8)), of(torch.randn(10, 9)))


def test_bias_falls_as_one_over_the_number_of_images():
    """Why the number of images belongs to the name: two samples of one distribution, d = 64, trace 64."""
    values = {}
    for count in (1000, 4000):
        draws = [frechet_distance(of(torch.randn(count, 64)), of(torch.randn(count, 64))).item() for _ in range(3)]
        values[count] = np.mean(draws)
    assert values[1000] / values[4000] == pytest.approx(4, rel=0.15)
