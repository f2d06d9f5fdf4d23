"""A divergence that is steered to the bits of a codebook: its formula, its factors, and that it gets there."""

import math

import pytest
import torch
from encoders.presets import unchecked
from quantizers.contract import together
from torch.distributions import Normal, kl_divergence

from imtok.quantizers.gaussian import Gaussian
from imtok.quantizers.target_divergence import TargetDivergence


def of_bits(bits, code_dim=4):
    """Latents ``1 n 2d`` whose groups have these bits each, ``n g``, all of them in the mean of the first channel."""
    groups = torch.tensor(bits, dtype=torch.float64)
    mean = torch.zeros(*groups.shape, code_dim, dtype=torch.float64)
    mean[..., 0] = (2 * math.log(2) * groups).sqrt()
    return torch.stack([mean, torch.zeros_like(mean)], -1).flatten(-3)[None]


def lambdas(quantizer):
    return [value.item() for value in (quantizer.lambda_mean, quantizer.lambda_max, quantizer.lambda_min)]


def test_groups_above_and_below_the_target_have_weights_of_their_own():
    quantizer = TargetDivergence(8, code_dim=4, codebook_size=256, kl_weight=0.5, draw="mode")
    quantizer.lambda_mean.fill_(3.0), quantizer.lambda_max.fill_(7.0), quantizer.lambda_min.fill_(0.25)
    bits = [[8.4, 8.6], [7.6, 7.4], [20.0, 0.0]]
    losses = quantizer(of_bits(bits)).losses
    expected = 3 * math.log(2) * (8.4 + 7 * 8.6 + 7.6 + 0.25 * 7.4 + 7 * 20)
    assert losses["kl"].weight == 0.5
    assert losses["kl"].value.item() == pytest.approx(expected, rel=1e-9)
    assert losses["bits"].value.item() == pytest.approx(52 / 6, rel=1e-9)
    assert losses["bits"].weight == 0


def test_while_all_factors_are_1_it_is_the_divergence_of_a_normal():
    mean, log_variance = torch.randn(2, 3, 5, 8, dtype=torch.float64)
    latents = torch.stack([mean, log_variance], -1).flatten(-2).requires_grad_()
    values = [quantizer(latents).losses["kl"].value for quantizer in (TargetDivergence(8, 4, 256), Gaussian(8))]
    exact = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(torch.zeros_like(mean), 1.0))
    torch.testing.assert_close(values[0], exact.sum((1, 2)).mean(), rtol=1e-12, atol=0)
    gradients = [torch.autograd.grad(value, latents)[0] for value in values]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("bits", "after"),
    [
        ([[8.1], [8.2]], [1.01, 1.0, 1.0]),
        ([[7.9], [8.0]], [1 / 1.01, 1.0, 1.0]),
        ([[8.6], [8.0]], [1.01, 1.01, 1.0]),
        ([[7.4], [8.0]], [1 / 1.01, 1.0, 1 / 1.01]),
        ([[20.0], [0.0]], [1.01, 1.01, 1 / 1.01]),
    ],
)
def test_after_a_step_each_factor_is_multiplied_or_divided(bits, after):
    quantizer = TargetDivergence(4, code_dim=4, codebook_size=256)
    latents = of_bits(bits)
    quantizer.update(quantizer(latents).stats)
    assert lambdas(quantizer) == pytest.approx(after, rel=1e-7)
    again = 1.01 if after[0] > 1 else 1 / 1.01
    quantizer.update(quantizer(latents).stats)
    assert quantizer.lambda_mean.item() == pytest.approx(again**2, rel=1e-7)


def test_factors_of_groups_have_limits_and_come_back_to_1():
    quantizer = TargetDivergence(4, code_dim=4, codebook_size=256, factor=2.0)
    far, near = of_bits([[20.0], [0.0]]), of_bits([[8.0], [8.0]])
    for _ in range(12):
        quantizer.update(quantizer(far).stats)
    assert lambdas(quantizer)[1:] == pytest.approx([1000, 1e-3])
    for _ in range(12):
        quantizer.update(quantizer(near).stats)
    assert lambdas(quantizer)[1:] == [1, 1]
    for _ in range(300):
        quantizer.update(quantizer(near * 0).stats)
    assert 0 < quantizer.lambda_mean.item() < 1e-29


def test_micro_batches_and_masks_are_one_batch_of_what_is_kept():
    one, many = (TargetDivergence(8, code_dim=4, codebook_size=16) for _ in range(2))
    latents, keep = torch.randn(4, 6, 16) * 2, torch.rand(4, 6) < 0.5
    compact = one(latents[keep][None])
    parts = [many(part, kept) for part, kept in zip(latents.split(1), keep.split(1), strict=True)]
    stats = together([part.stats for part in parts])
    torch.testing.assert_close(stats, compact.stats)
    assert stats["groups"] == 2 * keep.sum()
    many.update(stats)
    one.update(compact.stats)
    assert lambdas(one) == lambdas(many) != [1, 1, 1]
    many.update(many(latents, torch.zeros_like(keep)).stats)
    assert lambdas(one) == lambdas(many)  # no token was kept


def test_evaluation_uses_the_factors_and_counts_nothing():
    quantizer = TargetDivergence(4, code_dim=4, codebook_size=256).eval()
    quantizer.lambda_mean.fill_(2.0)
    quantized = quantizer(of_bits([[8.0]]))
    assert quantized.stats == {}
    assert quantized.losses["kl"].value.item() == pytest.approx(16 * math.log(2))


@pytest.mark.parametrize("kl_weight", [1e-6, 1e-3])
def test_whatever_its_weight_the_divergence_reaches_the_target(kl_weight):
    """A linear code of normal numbers, which would keep too many bits or none."""
    torch.manual_seed(0)
    quantizer = TargetDivergence(8, code_dim=4, codebook_size=256, kl_weight=kl_weight, factor=1.05)
    gain, log_variance, back = (torch.full((8,), value, requires_grad=True) for value in (1.0, -1.0, 1.0))
    optimizer = torch.optim.Adam([gain, log_variance, back], lr=0.03)
    for _ in range(300):
        numbers = torch.randn(32, 4, 8)
        latents = torch.stack([gain * numbers, log_variance.expand_as(numbers)], -1).flatten(-2)
        quantized = quantizer(latents)
        loss = (back * quantized.latents - numbers).square().mean() + kl_weight * quantized.losses["kl"].value
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        quantizer.update(quantized.stats)
    assert quantized.losses["bits"].value.item() == pytest.approx(8, abs=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"code_dim": 3}, "code_dim must divide dim=8, got 3"),
        ({"codebook_size": 1}, "codebook_size must be at least 2, got 1"),
        ({"tolerance": -1.0}, r"tolerance must not be negative and factor at least 1, got -1\.0 and 1\.01"),
        ({"factor": 0.9}, r"tolerance must not be negative and factor at least 1, got 0\.5 and 0\.9"),
        ({"kl_weight": -1.0}, r"kl_weight must not be negative, got -1\.0"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with unchecked(), pytest.raises(ValueError, match=message):
        TargetDivergence(**{"dim": 8, "code_dim": 4, **settings})
