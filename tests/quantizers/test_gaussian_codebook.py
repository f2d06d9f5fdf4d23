"""Codes of normal noise behind a KL bottleneck: which is chosen, where it stands, and what gradient passes."""

import math

import pytest
import torch
from encoders.presets import unchecked
from scipy.stats import norm
from torch.distributions import Normal
from torch.quasirandom import SobolEngine

from imtok.quantizers.gaussian_codebook import GaussianCodebook


def moments(images=3, tokens=5, dim=8):
    """Means, log variances, and both as an encoder gives them."""
    mean, log_variance = torch.randn(2, images, tokens, dim, dtype=torch.float64)
    return mean, log_variance, torch.stack([mean, log_variance], -1).flatten(-2)


@pytest.mark.parametrize("prior_weight", [1.0, 0.5, 0.0])
def test_the_code_has_the_greatest_density_relative_to_the_prior(prior_weight):
    quantizer = GaussianCodebook(8, code_dim=4, codebook_size=512, prior_weight=prior_weight).double()
    mean, log_variance, latents = moments()
    posterior = Normal(mean[..., None, :], (log_variance / 2).exp()[..., None, :])
    codes = quantizer.codes.repeat(1, 2)
    ratios = posterior.log_prob(codes) - prior_weight * Normal(torch.zeros_like(codes), 1.0).log_prob(codes)
    expected = ratios.unflatten(-1, (2, 4)).sum(-1).argmax(-2)
    quantized = quantizer(latents)
    assert torch.equal(quantized.ids, expected)
    assert torch.equal(quantized.latents, quantizer.codes[expected].flatten(-2))


def test_the_codes_are_normal_quantiles_of_a_scrambled_sobol_sequence():
    codes = GaussianCodebook(8, code_dim=4, codebook_size=4096, seed=3).codes
    drawn = SobolEngine(4, scramble=True, seed=3).draw(4096)
    torch.testing.assert_close(codes.double(), torch.from_numpy(norm.ppf(drawn.double().numpy())))
    torch.testing.assert_close(codes.mean(0), torch.zeros(4), rtol=0, atol=1e-3)
    torch.testing.assert_close(codes.T.cov(), torch.eye(4), rtol=0, atol=0.01)
    assert not torch.equal(codes, GaussianCodebook(8, code_dim=4, codebook_size=4096).codes)


def test_the_codes_draw_no_number_from_the_global_generator():
    before = torch.get_rng_state()
    one, other = GaussianCodebook(4, 4, 64), GaussianCodebook(4, 4, 64)
    assert torch.equal(one.codes, other.codes)
    assert torch.equal(before, torch.get_rng_state())


def test_the_codes_are_stored():
    assert list(GaussianCodebook(4, 4, 64).state_dict()) == ["codes"]


def test_the_gradient_is_that_of_mean_plus_deviation_times_the_noise_of_the_code():
    quantizer = GaussianCodebook(8, code_dim=4, codebook_size=64).double()
    mean, log_variance, latents = moments()
    latents.requires_grad_()
    quantized, weights = quantizer(latents), torch.randn(3, 5, 8, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((quantized.latents * weights).sum(), latents)
    noise = (quantized.latents.detach() - mean) / (log_variance / 2).exp()
    expected = torch.stack([weights, weights * noise * (log_variance / 2).exp() / 2], -1).flatten(-2)
    torch.testing.assert_close(gradient, expected)


def test_groups_stand_side_by_side_and_missing_ones_are_zero():
    quantizer = GaussianCodebook(12, code_dim=4, codebook_size=64)
    ids = torch.randint(64, (2, 5, 3))
    assert quantizer.vocab_sizes == (64, 64, 64)
    assert torch.equal(quantizer.decode(ids)[..., 4:8], quantizer.codes[ids[..., 1]])
    assert torch.equal(quantizer.decode(ids, slots=2)[..., :8], quantizer.decode(ids)[..., :8])
    assert not quantizer.decode(ids, slots=2)[..., 8:].any()
    assert not quantizer.decode(ids, slots=0).any()


def test_as_many_bits_as_a_latent_carries_make_a_code_as_far_away_as_a_draw():
    """The claim of the paper: a code stands for a sample of the posterior if the divergence is log2 of the codes."""
    bits, dim = 12, 4
    deviation = 2 ** (-bits / dim)
    mean = torch.randn(1, 4000, dim) * math.sqrt(1 - deviation**2)
    log_variance = torch.full_like(mean, 2 * math.log(deviation))
    quantizer = GaussianCodebook(dim, code_dim=dim, codebook_size=2**bits)
    codes = quantizer(torch.stack([mean, log_variance], -1).flatten(-2)).latents
    distance = ((codes - mean) / deviation).square().mean().sqrt().item()
    assert 0.5 < distance < 1.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"code_dim": 3}, "code_dim must divide dim=8, got 3"),
        ({"dim": 0}, "code_dim must divide dim=0, got 4"),
        ({"codebook_size": 1}, "codebook_size must be at least 2, got 1"),
        ({"prior_weight": -1.0}, r"prior_weight must not be negative, got -1\.0"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with unchecked(), pytest.raises(ValueError, match=message):
        GaussianCodebook(**{"dim": 8, "code_dim": 4, **settings})
