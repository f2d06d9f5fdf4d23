"""KID is torch-fidelity's over the same subsets, and unbiased."""

import numpy as np
import pytest
import torch
from torch_fidelity.metric_kid import kid_features_to_metric

from imtok.errors import InputError
from imtok.measures.kid import KID, kernel_distance
from imtok.measures.rows import FeatureRows


@pytest.fixture
def sets():
    return torch.randn(120, 32, dtype=torch.float64), 0.8 * torch.randn(150, 32, dtype=torch.float64) + 0.2


def brute_force(x, y):
    def kernel(a, b):
        return (float(a @ b) / len(a) + 1) ** 3

    x, y = x.numpy(), y.numpy()
    within = np.mean([kernel(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j])
    others = np.mean([kernel(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j])
    return within + others - 2 * np.mean([kernel(a, b) for a in x for b in y])


def test_the_whole_set_is_the_formula(sets, monkeypatch):
    expected = brute_force(*sets)
    assert kernel_distance(*sets) == pytest.approx(expected, rel=1e-10)
    monkeypatch.setattr("imtok.measures.kid._BLOCK", 17)
    assert kernel_distance(*sets) == pytest.approx(expected, rel=1e-10)


def test_subsets_are_those_of_torch_fidelity(sets):
    metric = KID(32, sets[1], subsets=20, subset_size=50, seed=2020)
    metric.update(sets[0])
    options = {"kid_subsets": 20, "kid_subset_size": 50, "rng_seed": 2020, "kid_kernel": "poly", "verbose": False}
    theirs = kid_features_to_metric(*sets, kid_kernel_poly_degree=3, kid_kernel_poly_coef0=1, **options)
    assert metric.compute()["kid"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-9)
    assert metric.compute()["kid_std"] == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-9)


def test_one_distribution_has_distance_zero_on_average():
    values = np.array([kernel_distance(torch.randn(40, 8), torch.randn(40, 8)) for _ in range(300)])
    assert abs(values.mean()) < 3 * values.std() / 300**0.5
    assert values.min() < 0


def test_a_reference_of_the_same_pass_is_the_same_number(sets):
    reference = FeatureRows(32)
    metric = KID(32, reference, subset_size=None)
    for index in torch.randperm(120).split(50):
        metric.update(sets[0][index], index)
    for index in torch.randperm(150).split(70):
        reference.update(sets[1][index], index)
    assert metric.compute() == {"kid": kernel_distance(*sets)}


def test_half_precision_features_are_computed_in_float64(sets):
    x, y = (side.half() for side in sets)
    assert kernel_distance(x, y) == pytest.approx(brute_force(x.double(), y.double()), rel=1e-10)


def test_too_few_images_are_refused(sets):
    metric = KID(32, sets[1])
    metric.update(sets[0])
    with pytest.raises(InputError, match=r"subsets of 1000 images needs as many on each side, got 120 and 150; give"):
        metric.compute()
    with pytest.raises(InputError, match="at least 2 images on each side, got 1 and 150"):
        kernel_distance(sets[0][:1], sets[1])
    with pytest.raises(ValueError, match="subset_size at least 2, got 100 and 1"):
        KID(32, sets[1], subset_size=1)
