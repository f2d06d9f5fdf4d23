"""What only GQ promises."""

import math

import pytest
import torch

from imtok.quantizers.gq import GQ
from imtok.quantizers.lfq import LFQ


def test_entropies_are_means_over_groups():
    latents = torch.randn(2, 30, 12, dtype=torch.float64)
    losses = GQ(3, 4, temperature=0.5)(latents).losses
    for name in ("entropy_token", "entropy_codebook"):
        groups = [LFQ([4], temperature=0.5)(group).losses[name].value for group in latents.split(4, dim=-1)]
        torch.testing.assert_close(losses[name].value, sum(groups) / 3)


def test_groups_that_are_stuck_have_no_entropy_unless_they_are_pooled():
    stuck = torch.tensor([[-1.0, -1], [1, -1], [-1, 1], [1, 1]]).flatten().expand(1, 50, 8)
    assert GQ(4, 2)(stuck).losses["entropy_codebook"].value.item() == pytest.approx(0, abs=1e-6)
    assert GQ(4, 2, pool_groups=True)(stuck).losses["entropy_codebook"].value.item() == pytest.approx(math.log(4))


def test_pooling_averages_over_tokens_and_groups_before_the_entropy():
    latents = torch.randn(2, 30, 12, dtype=torch.float64)
    losses = GQ(3, 4, temperature=0.5, pool_groups=True)(latents).losses
    codes = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 4)
    probabilities = (2 * latents.reshape(-1, 4) @ codes.T / 0.5).softmax(-1)
    torch.testing.assert_close(losses["entropy_token"].value, torch.special.entr(probabilities).sum(-1).mean())
    torch.testing.assert_close(losses["entropy_codebook"].value, torch.special.entr(probabilities.mean(0)).sum())


def test_each_group_is_a_slot():
    quantizer = GQ(16, 8)
    assert (quantizer.dim, quantizer.vocab_sizes, quantizer.bits_per_token) == (128, (256,) * 16, 128)
    latents = -torch.ones(1, 1, 128)
    latents[..., 9] = 1
    assert quantizer(latents).ids[0, 0].tolist() == [0, 2] + [0] * 14


def test_siglu_bounds_the_latents_of_every_loss_and_keeps_signs():
    latents = 3 * torch.randn(2, 30, 16, dtype=torch.float64)
    bounded = 2 * latents.sigmoid() - 1
    with_siglu, plain = GQ(2, 8, siglu=True)(latents), GQ(2, 8)(bounded)
    assert torch.equal(with_siglu.ids, plain.ids)
    for name in plain.losses:
        torch.testing.assert_close(with_siglu.losses[name].value, plain.losses[name].value)
    assert GQ(1, 1, siglu=True)(torch.full((1, 1, 1), 1e-30)).ids.item() == 1


def test_the_gradient_of_siglu_is_its_slope():
    latents = torch.linspace(-4, 4, 16, dtype=torch.float64)[None, None].requires_grad_()
    GQ(2, 8, siglu=True)(latents).latents.sum().backward()
    slope = 2 * latents.sigmoid() * (1 - latents.sigmoid())
    torch.testing.assert_close(latents.grad, slope.detach())


def test_the_gradient_passes_straight_through():
    latents, direction = torch.randn(2, 5, 16, requires_grad=True), torch.randn(2, 5, 16)
    (GQ(2, 8)(latents).latents * direction).sum().backward()
    assert torch.equal(latents.grad, direction)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"groups": 0}, "groups must be at least 1, got 0"),
        ({"groups": 4, "group_bits": 21}, r"slot_bits must be .* from 1 to 20"),
        ({"groups": 4, "temperature": -1.0}, "temperature must be positive, got -1.0"),
    ],
)
def test_settings_out_of_range_are_refused_with_their_value(wrong, message):
    with pytest.raises(ValueError, match=message):
        GQ(**wrong)
