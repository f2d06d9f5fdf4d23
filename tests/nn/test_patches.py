"""Patches: both published orders, and back."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from imtok.nn.patches import from_patches, to_patches

ORDERS = ["row column channel", "channel row column"]


@pytest.mark.parametrize("order", ORDERS)
def test_patches_put_together_are_the_map(order):
    features = torch.randn(2, 3, 8, 12)
    patches = to_patches(features, 4, order)
    assert patches.shape == (2, 6, 48)
    assert torch.equal(from_patches(patches, (2, 3), 4, order), features)
    assert torch.equal(to_patches(from_patches(patches, (2, 3), 4, order), 4, order), patches)


def test_the_orders_differ_by_the_place_of_the_channel():
    features = torch.randn(2, 3, 8, 12)
    last, first = (to_patches(features, 4, order) for order in ORDERS)
    assert torch.equal(last.unflatten(-1, (16, 3)).transpose(-1, -2).flatten(-2), first)
    assert not torch.equal(last, first)
    assert not torch.equal(from_patches(last, (2, 3), 4, ORDERS[1]), features)


def test_channel_first_patches_are_those_of_unfold_and_of_a_strided_convolution():
    features = torch.randn(2, 3, 8, 12, dtype=torch.float64)
    patches = to_patches(features, 4, "channel row column")
    assert torch.equal(patches, F.unfold(features, 4, stride=4).transpose(1, 2))
    convolution = nn.Conv2d(3, 5, 4, stride=4).double()
    expected = convolution(features).flatten(2).transpose(1, 2)
    torch.testing.assert_close(patches @ convolution.weight.flatten(1).T + convolution.bias, expected)


def test_the_first_row_of_patches_comes_first():
    rows = torch.arange(8.0)[:, None].expand(1, 1, 8, 12)
    assert to_patches(rows, 4)[0, :, 0].tolist() == [0, 0, 0, 4, 4, 4]
