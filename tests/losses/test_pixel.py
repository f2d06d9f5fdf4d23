"""Pixel losses are their formulas."""

import pytest
import torch

from imtok.losses.pixel import L1Loss, L2Loss


def test_losses_are_means_over_pixels_and_channels():
    image, target = torch.rand(2, 3, 5, 7), torch.rand(2, 3, 5, 7)
    torch.testing.assert_close(L1Loss()(image, target), (image - target).abs().sum() / 210)
    torch.testing.assert_close(L2Loss()(image, target), (image - target).square().sum() / 210)


@pytest.mark.parametrize("loss", [L1Loss, L2Loss])
def test_a_negative_weight_is_refused(loss):
    with pytest.raises(ValueError, match=r"weight must not be negative, got -0\.5"):
        loss(weight=-0.5)
