"""Precision and recall are the published definition, by blocks."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from imtok.errors import InputError
from imtok.measures.precision_recall import PrecisionRecall, precision_recall


def brute_force(images, reference, k):
    """ADM's way: the k-th entry of the sorted distances, each vector itself being entry 0."""

    def radii(rows):
        return np.sort(cdist(rows, rows, "sqeuclidean"), axis=1)[:, k]

    across = cdist(images, reference, "sqeuclidean")
    return (across <= radii(reference)).any(1).mean(), (radii(images) >= across.T).any(1).mean()


@pytest.mark.parametrize("k", [1, 3, 5])
def test_it_is_the_definition(k, monkeypatch):
    images, reference = torch.randn(90, 6).double(), 1.3 * torch.randn(110, 6).double() + 0.4
    expected = brute_force(images.numpy(), reference.numpy(), k)
    assert 0 < min(expected) < max(expected) < 1
    assert precision_recall(images, reference, k) == pytest.approx(expected, abs=1e-12)
    monkeypatch.setattr("imtok.measures.precision_recall._ROWS", 13)
    monkeypatch.setattr("imtok.measures.precision_recall._COLUMNS", 17)
    assert precision_recall(images, reference, k) == pytest.approx(expected, abs=1e-12)


def test_a_set_covers_itself_and_nothing_far_away():
    vectors = torch.randn(200, 64) + 30
    assert precision_recall(vectors, vectors) == (1, 1)
    assert precision_recall(vectors, vectors + 50) == (0, 0)


def test_a_lost_mode_costs_recall_and_not_precision():
    reference = torch.cat([torch.randn(300, 4), torch.randn(300, 4) + 100])
    precision, recall = precision_recall(torch.randn(300, 4), reference)
    assert precision > 0.9
    assert 0.4 < recall <= 0.5


def test_twins_and_constant_images_are_no_trouble():
    same = torch.ones(10, 4)
    assert precision_recall(same, same) == (1, 1)
    assert precision_recall(same, same + 1) == (0, 0)


def test_the_metric_is_the_function():
    images, reference = torch.randn(50, 8), torch.randn(60, 8)
    metric = PrecisionRecall(8, reference)
    for index in torch.randperm(50).split(20):
        metric.update(images[index], index)
    assert tuple(metric.compute().values()) == precision_recall(images, reference)


def test_too_few_images_are_refused():
    with pytest.raises(InputError, match="with 3 neighbours need more images than that on each side, got 3 and 9"):
        precision_recall(torch.randn(3, 2), torch.randn(9, 2))
    with pytest.raises(ValueError, match="neighbours must be at least 1, got 0"):
        PrecisionRecall(2, torch.randn(9, 2), neighbours=0)
