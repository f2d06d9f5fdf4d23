"""Pixel losses are their formulas."""

import pytest
import torch

from imtok.losses.logit_laplace import LogitLaplaceLoss
from imtok.losses.pixel import KnownL2Loss, L1Loss, L2Loss
from imtok.pixels import to_float


def test_losses_are_means_over_pixels_and_channels():
    image, target = torch.rand(2, 3, 5, 7), torch.rand(2, 3, 5, 7)
    torch.testing.assert_close(L1Loss()(image, target), (image - target).abs().sum() / 210)
    torch.testing.assert_close(L2Loss()(image, target), (image - target).square().sum() / 210)


def test_pixels_of_unknown_depth_do_not_count():
    levels = torch.randint(0, 3, (2, 1, 8, 8)) / 257  # the lowest levels of 16 bits: 0 is unknown, 1 is not
    levels[0, :, :4] = 0  # unlike numbers of known pixels
    image, target = torch.randn(2, 1, 8, 8), to_float(levels)
    each = [(image[row] - target[row])[levels[row] > 0].square().mean() for row in range(2)]
    torch.testing.assert_close(KnownL2Loss()(image, target), torch.stack(each).mean())
    parts = [KnownL2Loss()(image[row : row + 1], target[row : row + 1]) for row in range(2)]
    torch.testing.assert_close(KnownL2Loss()(image, target), torch.stack(parts).mean())
    assert KnownL2Loss()(image, torch.full_like(image, -1.0)) == 0


@pytest.mark.parametrize("loss", [L1Loss, L2Loss, KnownL2Loss, LogitLaplaceLoss])
def test_a_negative_weight_is_refused(loss):
    with pytest.raises(ValueError, match=r"weight must not be negative, got -0\.5"):
        loss(weight=-0.5)


def test_logit_laplace_is_the_likelihood_of_a_laplace_distribution_of_logits():
    """Up to what does not depend on the reconstruction: the density of x is Laplace(logit x) / (x (1 - x))."""
    image, target = torch.rand(2, 2, 3, 5, 7, dtype=torch.float64) * 2 - 1
    inside, wanted = (0.1 + 0.8 * (values + 1) / 2 for values in (image, target))
    density = torch.distributions.Laplace(inside.logit(), 1.0).log_prob(wanted.logit())
    constant = torch.log(torch.tensor(2.0, dtype=torch.float64))
    torch.testing.assert_close(LogitLaplaceLoss()(image, target), -density.mean() - constant)


def test_overshoot_has_a_finite_logit_laplace_loss_and_a_gradient_that_does_not_jump():
    image = torch.tensor([[[[0.999, 1.0, 1.001, 3.0]]]], dtype=torch.float64, requires_grad=True)
    loss = LogitLaplaceLoss()(image, torch.zeros_like(image))
    (gradient,) = torch.autograd.grad(loss, image)
    assert torch.isfinite(loss)
    torch.testing.assert_close(gradient, torch.full_like(gradient, 0.4 / 0.09 / 4), atol=0.01, rtol=0)
    with pytest.raises(ValueError, match=r"margin must be above 0 and below 0\.5, got 0\.5"):
        LogitLaplaceLoss(margin=0.5)
