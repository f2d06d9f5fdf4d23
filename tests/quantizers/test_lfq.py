"""What only LFQ promises."""

import math

import pytest
import torch

from imtok.quantizers.lfq import LFQ


def test_losses_follow_their_formulas():
    quantizer = LFQ([3, 4], commit_weight=0.25, entropy_weight=0.1, temperature=0.7)
    latents = torch.randn(2, 20, 7, dtype=torch.float64, requires_grad=True)
    losses = quantizer(latents).losses
    codes = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 7)
    probabilities = (2 * latents.flatten(0, 1) @ codes.T / 0.7).softmax(-1)
    expected = {
        "commit": (latents - latents.detach().sign()).square().mean(),
        "entropy_token": torch.special.entr(probabilities).sum(-1).mean(),
        "entropy_codebook": torch.special.entr(probabilities.mean(0)).sum(),
    }
    assert {name: weight for name, (_, weight) in losses.items()} == {
        "commit": 0.25,
        "entropy_token": 0.1,
        "entropy_codebook": -0.1,
    }
    for name, value in expected.items():
        torch.testing.assert_close(losses[name].value, value)
        torch.testing.assert_close(
            *(torch.autograd.grad(term, latents, retain_graph=True)[0] for term in (losses[name].value, value)),
            rtol=1e-9,
            atol=1e-13,
        )


def test_the_gradient_passes_straight_through():
    latents, direction = torch.randn(2, 5, 18, requires_grad=True), torch.randn(2, 5, 18)
    (LFQ([18])(latents).latents * direction).sum().backward()
    assert torch.equal(latents.grad, direction)


def test_the_first_entropy_at_low_temperature_only_feels_latents_near_zero():
    def both(value):
        return LFQ([1])(torch.full((1, 1, 1), value)).losses["entropy_token"].value.item()

    assert both(0.01) == pytest.approx(0.09, abs=0.003)
    assert both(0.02) == pytest.approx(0.003, abs=0.0005)
    assert both(0.1) < 1e-13


def test_weights_of_zero_leave_their_terms_out():
    latents = torch.full((1, 4, 8), torch.inf)  # an entropy of it would be NaN
    assert not LFQ([8], commit_weight=0.0, entropy_weight=0.0)(latents).losses
    assert set(LFQ([8], entropy_weight=0.0)(latents).losses) == {"commit"}


def test_evaluation_has_the_commitment_as_other_quantizers_do_and_no_entropies():
    assert set(LFQ([8]).eval()(torch.randn(1, 4, 8)).losses) == {"commit"}


def test_long_codes_report_a_bound():
    exact, bound = LFQ([18]), LFQ([12, 12])
    assert (exact.exact_entropy, bound.exact_entropy) == (True, False)
    value = bound(torch.zeros(1, 2, 24)).losses["entropy_codebook"].value
    assert value.item() == pytest.approx(24 * math.log(2), rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.01])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_extreme_latents_give_finite_terms(temperature, dtype):
    latents = torch.tensor([0.0, -0.0, 1e-8, 1e4, -1e4, 1.0, -1.0, 3e4], dtype=dtype).expand(1, 3, 8)
    latents = latents.clone().requires_grad_()
    quantized = LFQ([8], temperature=temperature)(latents)
    (quantized.latents.float().sum() + sum(value for value, _ in quantized.losses.values())).backward()
    assert all(torch.isfinite(value) for value, _ in quantized.losses.values())
    assert torch.isfinite(latents.grad).all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
        ({"temperature": float("nan")}, "temperature must be positive, got nan"),
        ({"commit_weight": -1.0}, "must not be negative, got -1.0"),
        ({"entropy_weight": -0.5}, "entropy_weight must not be negative, .* got -0.5"),
        ({"entropy_weight": [0.1, 0.1, 0.1]}, "one number or two"),
        ({"entropy_bits": 21}, "entropy_bits must be between 1 and 20, got 21"),
    ],
)
def test_settings_out_of_range_are_refused_with_their_value(wrong, message):
    with pytest.raises(ValueError, match=message):
        LFQ([6, 12], **wrong)
