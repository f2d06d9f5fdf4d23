"""What only BSQ promises."""

import math

import pytest
import torch
import torch.nn.functional as F

from imtok.options import option
from imtok.quantizers.bsq import BSQ
from imtok.quantizers.lfq import LFQ


def test_latents_and_codes_lie_on_the_unit_sphere():
    quantizer = BSQ([9, 9])
    torch.testing.assert_close(quantizer(torch.randn(3, 50, 18)).latents.norm(dim=-1), torch.ones(3, 50))
    torch.testing.assert_close(sum(table[5] for table in quantizer.codebook()).norm(), torch.tensor(1.0))


def test_the_distance_to_the_code_is_bounded():
    latents = torch.cat([torch.randn(1, 500, 18), torch.eye(18)[None], -torch.eye(18)[None]], dim=1)
    codes = BSQ([18])(latents).latents
    squared = (F.normalize(latents, dim=-1) - codes).square().sum(-1)
    assert squared.max() <= 2 - 2 / math.sqrt(18) + 1e-6


def test_the_scale_of_the_latents_changes_nothing():
    quantizer, latents = BSQ([18]), torch.randn(2, 20, 18, dtype=torch.float64)
    one, other = quantizer(latents), quantizer(7 * latents)
    assert torch.equal(one.ids, other.ids)
    for name in one.losses:
        torch.testing.assert_close(one.losses[name].value, other.losses[name].value)


def test_the_gradient_is_that_of_the_direction_unscaled():
    latents = torch.randn(2, 5, 18, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, 5, 18, dtype=torch.float64)
    (BSQ([18])(latents).latents * weights).sum().backward()
    length, direction = latents.detach().norm(dim=-1, keepdim=True), F.normalize(latents.detach(), dim=-1)
    tangent = weights - direction * (weights * direction).sum(-1, keepdim=True)
    torch.testing.assert_close(latents.grad, tangent / length)


@pytest.mark.parametrize(
    ("bits", "temperature", "lowest"), [(18, 1.0, 12.366), (36, 1.0, 24.898), (18, 0.1, 5.76), (18, 1 / 18, 1.62)]
)
def test_the_temperature_decides_how_low_the_first_entropy_can_fall(bits, temperature, lowest):
    code = torch.ones(1, 1, bits)
    quantizer = BSQ([9] * (bits // 9), temperature=temperature)
    assert quantizer(code).losses["entropy_token"].value.item() == pytest.approx(lowest, abs=0.005)


def test_losses_follow_their_formulas():
    quantizer = BSQ([4, 4], commit_weight=0.5, temperature=0.1)
    latents = torch.randn(2, 30, 8, dtype=torch.float64)
    losses, directions = quantizer(latents).losses, F.normalize(latents, dim=-1).flatten(0, 1)
    codes = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 8) / math.sqrt(8)
    probabilities = (2 * directions @ codes.T / 0.1).softmax(-1)
    torch.testing.assert_close(losses["entropy_token"].value, torch.special.entr(probabilities).sum(-1).mean())
    torch.testing.assert_close(losses["entropy_codebook"].value, torch.special.entr(probabilities.mean(0)).sum())
    torch.testing.assert_close(
        losses["commit"].value, (directions - directions.sign() / math.sqrt(8)).square().mean(), rtol=1e-6, atol=1e-8
    )
    assert [weight for _, weight in losses.values()] == [0.5, 0.1, -0.1]


def test_groups_sum_their_entropies():
    latents = torch.randn(2, 30, 12, dtype=torch.float64)
    grouped = BSQ([6, 6], entropy_bits=6)(latents).losses["entropy_codebook"].value
    log_odds = 4 / math.sqrt(12) * F.normalize(latents, dim=-1)
    halves = [
        LFQ([6], temperature=4.0)(half).losses["entropy_codebook"].value  # its log-odds are then the latents
        for half in log_odds.split(6, dim=-1)
    ]
    torch.testing.assert_close(grouped, sum(halves))


def test_commitment_is_off_by_default():
    assert set(BSQ([9, 9])(torch.randn(1, 4, 18)).losses) == {"entropy_token", "entropy_codebook"}


@pytest.mark.parametrize("bits", [18, 36])
def test_the_gradient_of_all_losses_has_the_direction_of_bsq_vit_s(bits):
    """Its straight-through step comes before the scale: image losses reach the latents divided by sqrt(d)."""
    quantizer = BSQ([bits // 2] * 2, entropy_weight=0.1 * math.sqrt(bits), entropy_bits=1)
    latents = torch.randn(2, 50, bits, dtype=torch.float64, requires_grad=True)
    image_loss = torch.randn(2, 50, bits, dtype=torch.float64) / 100
    quantized = quantizer(latents)
    total = (quantized.latents * image_loss).sum() + sum(weight * value for value, weight in quantized.losses.values())
    (found,) = torch.autograd.grad(total, latents)
    # the public formula, written out
    unit = F.normalize(latents, dim=-1)
    codes = (unit + (unit.sign() - unit).detach()) / math.sqrt(bits)
    chance = torch.sigmoid(-4 * unit / math.sqrt(bits))
    per_token = binary_entropy(chance).sum(-1).mean()
    of_mean = binary_entropy(chance.flatten(0, 1).mean(0)).sum()
    (public,) = torch.autograd.grad((codes * image_loss).sum() + 0.1 * (per_token - of_mean), latents)
    assert F.cosine_similarity(found.flatten(), public.flatten(), dim=0) > 0.9999
    torch.testing.assert_close(found, public * math.sqrt(bits))


def binary_entropy(chance):
    return -(chance * chance.log() + (1 - chance) * (1 - chance).log())


@pytest.mark.parametrize(("name", "bits"), [("bsq_18", 18), ("bsq_36", 36)])
def test_published_settings_have_their_weight_times_the_root_of_their_width(name, bits):
    assert option("quantizer", name)["entropy_weight"] == pytest.approx(0.1 * math.sqrt(bits), rel=1e-5)
