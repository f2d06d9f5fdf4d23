"""Rows are in the order of the data set, each image once."""

import pytest
import torch

from imtok.measures.rows import FeatureRows


def test_order_and_batches_do_not_matter():
    features, rows = torch.randn(50, 4), FeatureRows(4)
    for index in torch.randperm(50).split(9):
        rows.update(features[index], index)
    assert torch.equal(rows.compute(), features)


def test_an_image_that_a_padding_sampler_repeats_counts_once():
    features, rows = torch.randn(5, 4), FeatureRows(4)
    index = torch.tensor([0, 1, 2, 3, 4, 0, 1])
    rows.update(features[index], index)
    assert torch.equal(rows.compute(), features)


def test_rows_without_index_are_kept_as_they_come():
    features, rows = torch.randn(7, 4), FeatureRows(4)
    rows.update(features[:3])
    rows.update(features[3:])
    assert torch.equal(rows.compute(), features)


def test_rows_are_copies():
    features, rows = torch.ones(2, 4), FeatureRows(4)
    rows.update(features)
    features.zero_()
    assert rows.compute().sum() == 8


def test_rows_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="must have length 4, got 5"):
        FeatureRows(4).update(torch.zeros(2, 5))
    with pytest.raises(ValueError, match="NaN or infinity in row 1"):
        FeatureRows(2).update(torch.tensor([[0.0, 0.0], [torch.inf, 0.0]]))
    with pytest.raises(ValueError, match="dim must be at least 1, got 0"):
        FeatureRows(0)
