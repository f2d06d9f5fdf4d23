"""What only Gumbel-softmax promises."""

import math

import pytest
import torch
import torch.nn.functional as F

from imtok.quantizers.gumbel import GumbelVQ

LATENTS = torch.randn(2, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def quantizer():
    return GumbelVQ(dim=4, codebook_size=5).double()


def drawn_from(seed):
    return torch.Generator().manual_seed(seed)


def test_codes_are_drawn_with_the_probabilities_of_the_logits(quantizer):
    latent = LATENTS[:1, :1]
    chances = quantizer.logits(latent).softmax(-1).flatten().detach()
    ids = quantizer(latent.expand(1, 20_000, 4), generator=drawn_from(0)).ids.flatten()
    shares = torch.bincount(ids, minlength=5) / len(ids)
    assert ((shares - chances).abs() < 4 * (chances * (1 - chances) / len(ids)).sqrt()).all()


def test_values_and_gradients_are_those_of_the_one_hot_graph(quantizer):
    latents = LATENTS.clone().requires_grad_()
    quantizer.temperatures = (0.5, 0.5)
    codes = quantizer(latents, generator=drawn_from(3)).latents
    noise = -torch.empty(2, 6, 5, dtype=torch.float64).exponential_(generator=drawn_from(3)).log()
    soft = ((quantizer.logits(latents) + noise) / 0.5).softmax(-1)
    hard = F.one_hot(soft.argmax(-1), 5) - soft.detach() + soft
    torch.testing.assert_close(codes, hard @ quantizer.weight)
    direction = torch.randn_like(codes)
    wanted = [latents, *quantizer.parameters()]
    ours = torch.autograd.grad((codes * direction).sum(), wanted)
    theirs = torch.autograd.grad(((hard @ quantizer.weight) * direction).sum(), wanted)
    for mine, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-9, atol=1e-12)


def test_the_divergence_is_that_from_an_even_choice(quantizer):
    keep = torch.rand(2, 6, generator=drawn_from(0)) < 0.5
    chances = quantizer.logits(LATENTS)[keep].softmax(-1)
    even = torch.full_like(chances, 1 / 5)
    value, weight = quantizer(LATENTS, keep).losses["kl"]
    torch.testing.assert_close(value, F.kl_div(even.log(), chances, reduction="batchmean"))
    assert weight == 5e-4


def test_evaluation_takes_the_greatest_logit(quantizer):
    ids = quantizer.eval()(LATENTS).ids[..., 0]
    assert torch.equal(ids, quantizer.logits(LATENTS).argmax(-1))


def test_the_temperature_falls_along_half_a_cosine_and_its_step_is_stored():
    quantizer = GumbelVQ(4, 5, temperature=1.0, final_temperature=0.25, anneal=4)
    found = list[float]()
    for _ in range(6):
        found.append(quantizer.temperature().item())
        quantizer.update(quantizer(LATENTS.float()).stats)
    expected = [0.25 + 0.75 * (1 + math.cos(math.pi * min(step / 4, 1))) / 2 for step in range(6)]
    assert found == pytest.approx(expected)
    again = GumbelVQ(4, 5, temperature=1.0, final_temperature=0.25, anneal=4)
    again.load_state_dict(quantizer.state_dict())
    assert again.temperature() == quantizer.temperature() == 0.25
    quantizer.eval().update(quantizer(LATENTS.float()).stats)
    assert quantizer.steps == 6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kl_weight": -1.0}, "must not be negative"),
        ({"temperature": 0.0}, "temperatures must be positive, got 0.0 and 1.0"),
        ({"final_temperature": -1.0}, "temperatures must be positive"),
        ({"anneal": -1}, "anneal must be 0 or a number of steps, got -1"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        GumbelVQ(4, 5, **settings)
