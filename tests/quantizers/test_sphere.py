"""Vectors of unit length: values as they are everywhere, gradients bounded where there is hardly any length."""

import pytest
import torch
import torch.nn.functional as F
from quantizers.contract import NAMES, config, length, smaller

from imtok.construct import construct
from imtok.quantizers.estimators import rotation
from imtok.quantizers.sphere import SHORT_LATENT, unit_length


@pytest.mark.parametrize("scale", [1.0, 1e-2, 1e-6, 1e-12, 0.0])
def test_values_are_those_of_a_plain_division_bit_for_bit(scale):
    vectors = torch.randn(64, 8) * scale
    assert torch.equal(unit_length(vectors), F.normalize(vectors, dim=-1))


def test_the_gradient_of_an_ordinary_vector_is_as_it_was_bit_for_bit():
    vectors, towards = torch.randn(64, 8, requires_grad=True), torch.randn(64, 8)
    (ours,) = torch.autograd.grad(unit_length(vectors), vectors, towards)
    (plain,) = torch.autograd.grad(F.normalize(vectors, dim=-1), vectors, towards)
    assert torch.equal(ours, plain)


@pytest.mark.parametrize("scale", [1e-4, 1e-9, 0.0])
@pytest.mark.parametrize("name", NAMES)
def test_no_quantizer_has_a_gradient_without_bound_at_latents_near_zero(name, scale):
    """Of what passes its codes, and of each loss: at most a thousandfold what ordinary latents have, and a little."""
    torch.manual_seed(0)
    quantizer = construct(smaller(config(name)))
    latents = torch.randn(4, length(quantizer), quantizer.in_dim)
    towards = torch.randn(4, length(quantizer), quantizer.dim)
    usual, near = (gradients(quantizer, latents * factor, towards) for factor in (1.0, scale))
    for term, largest in near.items():
        assert largest <= 10 / SHORT_LATENT * max(usual.values()), term


def gradients(quantizer, latents, towards):
    """The largest gradient of a single element, of each term by name."""
    latents = latents.clone().requires_grad_()
    quantized = quantizer(latents)
    terms = {"codes": (quantized.latents * towards).sum() / len(towards)}
    terms |= {name: loss.value * towards[0].numel() for name, loss in quantized.losses.items()}
    found = {}
    for name, value in terms.items():
        gradient = (
            torch.autograd.grad(value, latents, retain_graph=True, allow_unused=True)[0]
            if value.requires_grad
            else None
        )
        found[name] = 0.0 if gradient is None else gradient.abs().max().item()
    return found


def test_a_rotation_of_a_latent_near_zero_has_no_gain():
    latents = (1e-5 * torch.randn(16, 4)).requires_grad_()
    codes = F.normalize(torch.randn(16, 4), dim=-1)
    (gradient,) = torch.autograd.grad(rotation(codes, latents), latents, torch.ones(16, 4))
    assert gradient.abs().max() <= 1
