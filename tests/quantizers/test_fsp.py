"""What only finite scalar perturbation promises."""

import math

import pytest
import torch
from torch.distributions import Laplace, Normal

from imtok.quantizers.fsp import ACTIVATIONS, FSP
from imtok.quantizers.residual import Residual

LEVELS = [2, 3, 5, 8]
LATENTS = torch.randn(4, 500, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def drawn_from(seed):
    return torch.Generator().manual_seed(seed)


def tanh_share(latents):
    return (latents.tanh() + 1) / 2


def test_codes_are_the_middles_of_bins_of_one_width_and_variance_one():
    quantizer = FSP([4, 3])
    bins = torch.arange(12)
    expected = torch.stack([(bins % 4 + 0.5) / 4 - 0.5, (bins // 4 + 0.5) / 3 - 0.5], -1) * math.sqrt(12)
    torch.testing.assert_close(quantizer.codebook()[0], expected)
    torch.testing.assert_close(quantizer.values()[0, :4], expected[:4, 0])
    many = FSP([1000]).codebook()[0]
    assert many.mean().item() == pytest.approx(0, abs=1e-5)
    assert many.var().item() == pytest.approx(1, abs=2e-3)


def test_in_evaluation_each_channel_takes_the_bin_that_it_lies_in():
    quantizer = FSP(LEVELS).double().eval()
    quantized = quantizer(LATENTS)
    bins = (tanh_share(LATENTS) * torch.tensor(LEVELS)).floor()
    expected = ((bins + 0.5) / torch.tensor(LEVELS) - 0.5) * math.sqrt(12)
    torch.testing.assert_close(quantized.latents, expected)
    assert torch.equal(quantized.ids[..., 0], (bins @ torch.tensor([1.0, 2, 6, 30]).double()).long())


def test_in_training_noise_is_even_over_the_width_of_a_bin_and_never_leaves_the_range():
    quantizer = FSP(LEVELS, quantize_rate=0.0).double()
    share, noisy = tanh_share(LATENTS), quantizer(LATENTS, generator=drawn_from(1)).latents / math.sqrt(12) + 0.5
    moves = (noisy - share) * torch.tensor(LEVELS)
    assert moves.abs().max() <= 0.5
    assert ((noisy > 0) & (noisy < 1)).all()
    refused = moves.abs() < 1e-12  # these would have left (0, 1)
    edge = torch.minimum(share, 1 - share) * torch.tensor(LEVELS) < 0.5
    assert refused.any()
    assert edge[refused].all()
    inner = moves[~edge]
    assert inner.mean().item() == pytest.approx(0, abs=0.03)
    assert inner.var().item() == pytest.approx(1 / 12, abs=0.005)


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_a_channel_is_quantized_with_the_given_probability_and_ids_tell_of_no_noise(rate):
    quantizer = FSP(LEVELS, quantize_rate=rate).double()
    trained = quantizer(LATENTS, generator=drawn_from(2))
    sure = quantizer.eval()(LATENTS)
    assert torch.equal(trained.ids, sure.ids)
    share = (trained.latents == sure.latents).double().mean().item()
    assert share == pytest.approx(rate, abs=0.02)
    assert quantizer.noisy is quantizer.stochastic is (rate < 1)
    assert Residual([quantizer], depth=2).noisy is (rate < 1)


def test_the_gradient_is_that_of_the_share_with_noise_and_without():
    direction = torch.randn_like(LATENTS)
    expected = direction * (1 - LATENTS.tanh().square()) / 2 * math.sqrt(12)
    for rate in (0.0, 0.5, 1.0):
        latents = LATENTS.clone().requires_grad_()
        (FSP(LEVELS, quantize_rate=rate).double()(latents).latents * direction).sum().backward()
        torch.testing.assert_close(latents.grad, expected)


@pytest.mark.parametrize(
    ("name", "variance"), [("tanh", math.pi**2 / 12), ("sigmoid", math.pi**2 / 3), ("normal", 1), ("laplace", 2)]
)
def test_each_activation_is_the_distribution_function_of_its_variance(name, variance):
    """So that latents of that distribution, with mean 0 and that variance, have no loss and use all codes alike."""
    activation = ACTIVATIONS[name]
    assert activation.variance == pytest.approx(variance, abs=1e-3)
    points = torch.linspace(-4, 4, 101, dtype=torch.float64)
    known = {
        "tanh": torch.sigmoid(2 * points),
        "sigmoid": torch.sigmoid(points),
        "normal": Normal(0.0, 1.0).cdf(points),
        "laplace": Laplace(0.0, 1.0).cdf(points),
    }
    torch.testing.assert_close(activation.spread(points), known[name])


def test_losses_are_those_of_means_and_unbiased_variances_of_what_is_kept():
    keep = torch.rand(4, 500, generator=drawn_from(3)) < 0.3
    losses = FSP(LEVELS, activation="laplace").double()(LATENTS + 0.3, keep).losses
    kept = (LATENTS + 0.3)[keep]
    torch.testing.assert_close(losses["mean"].value, kept.mean(0).square().mean())
    torch.testing.assert_close(losses["variance"].value, (kept.var(0) - 2).square().mean())
    assert (losses["mean"].weight, losses["variance"].weight) == (0.1, 0.07)


def test_one_token_and_none_have_finite_losses():
    quantizer = FSP(LEVELS)
    for count in (0, 1):
        keep = torch.arange(6)[None] < count
        losses = quantizer(torch.randn(1, 6, 4), keep).losses
        assert losses["variance"].value.item() == pytest.approx(0.8225**2)
        assert torch.isfinite(losses["mean"].value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"levels": [1, 3]}, "levels must be a list of whole numbers >= 2"),
        ({"activation": "cauchy"}, "activation must be one of tanh, sigmoid, normal, laplace, got 'cauchy'"),
        ({"quantize_rate": 1.1}, r"quantize_rate must be in \[0, 1\], got 1.1"),
        ({"variance_weight": -1.0}, "loss weights must not be negative, got 0.1 and -1.0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        FSP(**({"levels": LEVELS} | settings))
