"""The adaptive weight from cached gradients is the published one, which differentiates both losses down to the end."""

import pytest
import torch
from einops import rearrange

from imtok.critics.patchgan import PatchGAN
from imtok.decoders.cnn import CNNDecoder
from imtok.losses.adversarial import Adversary
from imtok.losses.balance import balance
from imtok.losses.efflite0 import EffLite0Loss
from imtok.losses.pixel import L1Loss
from imtok.objectives.images import image_terms


@pytest.fixture
def parts():
    decoder = CNNDecoder(in_dim=4, channels=8, multipliers=(1, 2), blocks=1, latent_channels=8).double()
    losses = {"l1": L1Loss().double(), "efflite0": EffLite0Loss("random", 0.5).double()}
    latents, target = torch.randn(2, 64, 4, dtype=torch.float64), torch.rand(2, 3, 16, 16, dtype=torch.float64) * 2 - 1
    return decoder, losses, latents, target


def published(decoder, losses, adversary, latents, target):
    """VQGAN's: two passes down to the last layer with the graph kept, then a third one through everything."""
    image = decoder(latents, (16, 16))
    wanted = sum(loss(image, target) * loss.weight for loss in losses.values())
    fooling = -adversary.critic(image).mean()
    first = torch.autograd.grad(wanted, decoder.last_layer, retain_graph=True)[0].norm()
    second = torch.autograd.grad(fooling, decoder.last_layer, retain_graph=True)[0].norm()
    ratio = (first / (second + 1e-4)).clamp(0, 1e4).detach()
    (wanted + adversary.weight * ratio * fooling).backward()
    return ratio


@pytest.mark.parametrize("weight", [0.8, 50.0])
def test_ratio_total_and_every_gradient_are_the_published_ones(parts, weight):
    decoder, losses, latents, target = parts
    adversary = Adversary(PatchGAN(8, 2), weight=weight, balance="adaptive").double()
    ratio = published(decoder, losses, adversary, latents, target)
    naive = {name: parameter.grad.clone() for name, parameter in decoder.named_parameters()}
    decoder.zero_grad()
    adversary.requires_grad_(False)
    total, terms, numbers = image_terms(decoder(latents, (16, 16)), target, losses, adversary, decoder, 0)
    total.backward()
    assert numbers["adversarial_balance"].item() == pytest.approx(ratio.item(), rel=1e-12)
    assert total.item() == pytest.approx(sum((value * factor).item() for value, factor in terms.values()), rel=1e-12)
    largest = max(gradient.norm() for gradient in naive.values())
    for name, parameter in decoder.named_parameters():
        error = (parameter.grad - naive[name]).norm() / naive[name].norm().clamp_min(1e-9 * largest)  # biases of keys
        assert error < 1e-6, name


def test_a_weight_of_one_makes_both_gradients_equally_large_at_the_last_layer(parts):
    decoder, losses, latents, target = parts
    adversary = Adversary(PatchGAN(8, 2), weight=1.0, balance="adaptive").double()
    image = decoder(latents, (16, 16))
    _, terms, _ = image_terms(image, target, losses, adversary, decoder, 0)
    leaf = image.detach().requires_grad_()
    guides = [
        torch.autograd.grad(sum(loss(leaf, target) * loss.weight for loss in losses.values()), leaf)[0],
        torch.autograd.grad(-adversary.critic(leaf).mean(), leaf)[0],
    ]
    norms = [torch.autograd.grad(image, decoder.last_layer, g, retain_graph=True)[0].norm().item() for g in guides]
    ratio = terms["adversarial"].value.item() / -adversary.critic(leaf).mean().item()
    assert ratio * norms[1] == pytest.approx(norms[0], rel=1e-4 / norms[1] + 1e-9)


def test_over_ranks_it_is_the_ratio_of_one_big_batch_and_no_mean_of_theirs(monkeypatch):
    """Norms are taken of the averaged products: those of two halves that pull apart are smaller than the halves'."""
    weight = torch.randn(3, 1, dtype=torch.float64, requires_grad=True)
    features = torch.randn(2, 1, 1, 4, dtype=torch.float64)
    image = rearrange(weight, "c d -> 1 c d 1") * features
    wanted, balanced = torch.randn(2, *image.shape, dtype=torch.float64)
    whole = balance(image, weight, wanted / 2, balanced / 2)  # a mean over twice as many images
    products = [torch.autograd.grad(image[1:], weight, guide[1:], retain_graph=True)[0] for guide in (wanted, balanced)]
    alone = balance(image[:1], weight, wanted[:1], balanced[:1])
    monkeypatch.setattr("imtok.losses.balance.world_size", lambda: 2)
    monkeypatch.setattr("imtok.losses.balance.sum_over_ranks", lambda own: own + products.pop(0))
    assert balance(image[:1], weight, wanted[:1], balanced[:1]).item() == pytest.approx(whole.item(), rel=1e-12)
    assert products == []
    assert abs(alone - whole) > 0.01 * whole


def test_without_any_gradient_from_the_critic_the_ratio_is_capped():
    weight = torch.ones(3, 1, requires_grad=True)
    image = (weight * torch.ones(1, 3, 1, 4))[:, :, :1]
    assert balance(image, weight, torch.full_like(image, 1e9), torch.zeros_like(image)) == 1e4
    assert balance(image, weight, torch.zeros_like(image), torch.ones_like(image)) == 0


def test_a_fixed_weight_is_the_plain_sum(parts):
    decoder, losses, latents, target = parts
    adversary = Adversary(PatchGAN(8, 2), weight=0.3).double()
    image = decoder(latents, (16, 16))
    plain = sum(loss(image, target) * loss.weight for loss in losses.values()) - 0.3 * adversary.critic(image).mean()
    wanted = torch.autograd.grad(plain, decoder.last_layer)[0]
    total, *_ = image_terms(decoder(latents, (16, 16)), target, losses, adversary, decoder, 0)
    torch.testing.assert_close(total, plain, rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.autograd.grad(total, decoder.last_layer)[0], wanted, rtol=1e-9, atol=1e-15)


def test_a_frozen_last_layer_is_refused():
    with pytest.raises(ValueError, match="last layer must learn"):
        balance(torch.zeros(1, 3, 1, 1), torch.zeros(3), torch.zeros(1, 3, 1, 1), torch.zeros(1, 3, 1, 1))
