"""The inception score is torch-fidelity's, with its shuffle."""

import pytest
import torch
from torch_fidelity.metric_isc import isc_features_to_metric

from imtok.errors import InputError
from imtok.measures.inception_score import InceptionScore


@pytest.mark.parametrize(("count", "splits"), [(100, 10), (103, 7), (50, 1)])
@pytest.mark.parametrize("seed", [2020, None])
def test_it_is_that_of_torch_fidelity(count, splits, seed):
    logits = 3 * torch.randn(count, 40)
    metric = InceptionScore(40, splits, seed)
    for index in torch.randperm(count).split(16):
        metric.update(logits[index], index)
    theirs = isc_features_to_metric(logits, splits, shuffle=seed is not None)
    assert metric.compute()["inception_score"] == pytest.approx(theirs["inception_score_mean"], rel=1e-10)
    assert metric.compute()["inception_score_std"] == pytest.approx(theirs["inception_score_std"], rel=1e-7, abs=1e-12)


def test_its_bounds_are_one_and_the_number_of_classes():
    same, sure = InceptionScore(20, splits=2), InceptionScore(20, splits=1)
    same.update(torch.randn(1, 20).expand(40, 20))
    assert same.compute()["inception_score"] == pytest.approx(1, rel=1e-12)
    sure.update(1e4 * torch.eye(20))  # all but one probability underflow
    assert sure.compute()["inception_score"] == pytest.approx(20, rel=1e-12)


def test_it_is_one_for_images_that_look_like_nothing():
    metric = InceptionScore(1008)
    metric.update(torch.zeros(30, 1008))
    assert metric.compute()["inception_score"] == pytest.approx(1, rel=1e-12)


def test_too_few_images_are_refused():
    metric = InceptionScore(5)
    metric.update(torch.randn(9, 5))
    with pytest.raises(InputError, match="over 10 splits needs at least as many images, got 9"):
        metric.compute()
