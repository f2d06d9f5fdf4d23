"""Flows and diffusions against what is known exactly: point masses, laws of times, published constants."""

import math

import pytest
import torch
from encoders.presets import unchecked
from torch.distributions import Normal, kl_divergence

from imtok.decoders.diffusion import Diffusion
from imtok.decoders.processes import RectifiedFlow

SHAPE = (2, 3, 4, 4)


@pytest.fixture
def data():
    return torch.randn(SHAPE, dtype=torch.float64)


@pytest.fixture
def noise():
    return torch.randn(1, *SHAPE, dtype=torch.float64)


@pytest.mark.parametrize("solver", ["euler", "heun"])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_the_velocity_of_a_point_mass_leads_to_it_in_any_number_of_steps(data, noise, solver, steps):
    drawn = RectifiedFlow(solver=solver).sample(
        lambda maps, times: (maps - data) / times[:, None, None, None], noise, steps
    )
    torch.testing.assert_close(drawn, data, rtol=1e-12, atol=1e-12)


def test_the_error_of_heun_falls_four_times_and_that_of_euler_two_times_with_twice_the_steps(noise):
    """On the velocity x, which shrinks noise by e."""
    ratios = {}
    for solver in ("euler", "heun"):
        flow = RectifiedFlow(solver=solver)
        # Past the last step, which heun takes as euler does: its share is of second order too.
        error = [(flow.sample(lambda maps, _: maps, noise, n) - noise[0] / math.e).abs().max() for n in (64, 128)]
        ratios[solver] = (error[0] / error[1]).item()
    assert ratios["euler"] == pytest.approx(2, rel=0.05)
    assert ratios["heun"] == pytest.approx(4, rel=0.1)


def test_times_follow_their_laws():
    generator = torch.Generator().manual_seed(0)
    count = 20000
    uniform = RectifiedFlow("uniform").draw_times(count, generator)
    assert _distance(uniform, lambda times: times) < 1.7 / math.sqrt(count)
    normal = RectifiedFlow("logit_normal").draw_times(count, generator)
    assert _distance(normal, lambda times: Normal(0.0, 1.0).cdf(times.logit())) < 1.7 / math.sqrt(count)
    flat = RectifiedFlow("mode", mode_scale=0.0).draw_times(count, generator)
    assert _distance(flat, lambda times: times) < 1.7 / math.sqrt(count)
    mode = RectifiedFlow("mode", mode_scale=1.29).draw_times(count, generator)
    assert mode.min() >= 0
    assert mode.max() <= 1
    middle = ((mode > 0.25) & (mode < 0.75)).float().mean().item()
    # f(u) = 1 - u - s (cos^2(pi u / 2) - 1 + u) falls from 1 to 0; the share between two times is its arguments'.
    u = torch.linspace(0, 1, 100001, dtype=torch.float64)
    law = 1 - u - 1.29 * ((math.pi / 2 * u).cos() ** 2 - 1 + u)
    assert middle == pytest.approx(((law > 0.25) & (law < 0.75)).double().mean().item(), abs=0.015)
    assert middle > 0.55


def _distance(drawn, distribution):
    """Kolmogorov's, from a distribution function."""
    ordered = drawn.sort().values
    return (distribution(ordered) - torch.linspace(0, 1, len(drawn))).abs().max().item()


def test_the_velocity_from_data_to_noise_has_no_loss_and_another_its_mean_square(data, noise):
    flow, times = RectifiedFlow(), torch.tensor([0.2, 0.9]).double()
    seen = []

    def exact(maps, at):
        seen.append((maps, at))
        return noise[0] - data

    assert flow.losses(exact, data, noise[0], times)["velocity"].value == 0
    share = times[:, None, None, None]
    torch.testing.assert_close(seen[0][0], (1 - share) * data + share * noise[0])
    off = flow.losses(lambda maps, at: noise[0] - data + 2.0, data, noise[0], times)["velocity"]
    assert off.value.item() == pytest.approx(4.0)


def test_the_linear_schedule_has_the_published_end():
    """Of the signal's variance 4.0358e-5 is left after a thousand steps of 1e-4 to 0.02."""
    assert Diffusion().signals[-1] == pytest.approx(4.0358e-5, rel=1e-4)
    assert Diffusion().signals[0] == pytest.approx(1 - 1e-4, rel=1e-12)


@pytest.mark.parametrize(("way", "steps"), [("ddim", 1), ("ddim", 6), ("ancestral", 6)])
def test_the_noise_of_a_point_mass_leads_to_it(data, way, steps):
    diffusion = Diffusion(way)

    def exact(maps, times):
        left = diffusion.signals[round(times[0].item() * 1000)]
        drawn = (maps - math.sqrt(left) * data) / math.sqrt(1 - left)
        return torch.cat([drawn, torch.zeros_like(drawn)], 1)

    noise = torch.randn(diffusion.draws(steps), *SHAPE, dtype=torch.float64)
    torch.testing.assert_close(diffusion.sample(exact, noise, steps), data, rtol=1e-9, atol=1e-9)


def test_the_variance_learns_from_the_divergence_of_the_steps_back_and_the_noise_does_not(data, noise):
    """Against torch's own KL divergence of two normal distributions, in bits."""
    diffusion, index = Diffusion(), torch.tensor([5, 800])
    predicted = torch.randn(2, 6, 4, 4, dtype=torch.float64, requires_grad=True)
    losses = diffusion.losses(lambda maps, times: predicted, data, noise[0], index / 1000)
    left = torch.tensor(diffusion.signals, dtype=torch.float64)[index][:, None, None, None]
    before = torch.tensor(diffusion.signals, dtype=torch.float64)[index - 1][:, None, None, None]
    growth = 1 - left / before
    noisy = left.sqrt() * data + (1 - left).sqrt() * noise[0]
    narrow = growth * (1 - before) / (1 - left)

    def back(clean, variance):
        mean = before.sqrt() * growth / (1 - left) * clean + (left / before).sqrt() * (1 - before) / (1 - left) * noisy
        return Normal(mean, variance.sqrt())

    guess = (noisy - (1 - left).sqrt() * predicted[:, :3]) / left.sqrt()
    share = (predicted[:, 3:] + 1) / 2
    wide = (share * growth.log() + (1 - share) * narrow.log()).exp()
    expected = kl_divergence(back(data, narrow.expand_as(data)), back(guess, wide)).mean() / math.log(2)
    torch.testing.assert_close(losses["variance"].value, expected)
    gradient = torch.autograd.grad(losses["variance"].value, predicted)[0]
    assert not gradient[:, :3].any()
    assert gradient[:, 3:].any()
    torch.testing.assert_close(losses["noise"].value, (predicted[:, :3] - noise[0]).square().mean())


def test_a_shorter_way_goes_from_the_last_step_to_the_first():
    assert Diffusion()._spaced(4) == [0, 333, 666, 999]
    assert Diffusion()._spaced(1000) == list(range(1000))
    with pytest.raises(ValueError, match=r"steps must lie in \[1, 1000\], got 1001"):
        Diffusion()._spaced(1001)


def test_choices_that_do_not_exist_are_refused():
    with unchecked(), pytest.raises(ValueError, match="times must be one of uniform, logit_normal, mode, got 'cosine'"):
        RectifiedFlow(times="cosine")
    with pytest.raises(ValueError, match=r"mode_scale must be between -1 and 1.75, got 2.0"):
        RectifiedFlow(mode_scale=2.0)
    with unchecked(), pytest.raises(ValueError, match="way must be one of ancestral, ddim, got 'dpm'"):
        Diffusion(way="dpm")
