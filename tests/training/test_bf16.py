"""A run in bf16 has the gradients of one in fp32 wherever the forward pass is in fp32: quantizers, judges, R1.

And so has a loop of one's own that calls ``backward`` inside autocast: each is a defence by itself.
"""

import pytest
import torch
from encoders.presets import slow_but_one_of_each_class
from quantizers.contract import NAMES, config, smaller
from torch import nn
from torch.autograd.graph import get_gradient_edge
from torch.utils.checkpoint import checkpoint
from training.bf16 import (
    CRITICS,
    DISTANCES,
    IMAGE_LOSSES,
    distance_case,
    gradients_of_a_run,
    image_loss_case,
    penalty_case,
    pictures,
    quantizer_case,
    relative_error,
)
from training.runs import tiny_run

from imtok.construct import construct
from imtok.decoders.cnn import CNNDecoder
from imtok.losses.adversarial import Adversary
from imtok.losses.balance import balance
from imtok.losses.pixel import L2Loss
from imtok.nn.exact import exact_backward, gradients
from imtok.objectives.images import image_terms
from imtok.quantizers.bsq import BSQ
from imtok.tokenizer import Tokenizer
from imtok.training.run import train

CLOSE = 1e-3


def inside_autocast(loss, leaves):
    """What a loop gets that calls ``backward`` inside autocast."""
    with torch.autocast("cpu", torch.bfloat16):
        found = torch.autograd.grad(loss(), leaves, allow_unused=True)
    return [torch.zeros_like(leaf) if one is None else one for one, leaf in zip(found, leaves, strict=True)]


def errors(loss, leaves, critic=None):
    """Of a run in bf16, and of a loop that has all inside autocast, against a run in fp32."""
    exact = gradients_of_a_run(loss, leaves, "32-true", critic)
    run = gradients_of_a_run(loss, leaves, "bf16-mixed", critic)
    return [relative_error(run, exact), relative_error(inside_autocast(loss, leaves), exact)]


@pytest.mark.parametrize("name", slow_but_one_of_each_class("quantizer", NAMES))
def test_a_quantizer_learns_in_bf16_what_it_learns_in_fp32(name):
    assert max(errors(*quantizer_case(construct(smaller(config(name))), 32))) < CLOSE


@pytest.mark.parametrize("name", IMAGE_LOSSES)
def test_so_does_an_image_under_a_loss(name):
    assert max(errors(*image_loss_case(name))) < CLOSE


@pytest.mark.parametrize("name", DISTANCES)
def test_so_do_features_under_a_distance(name):
    assert max(errors(*distance_case(name))) < CLOSE


@pytest.mark.parametrize("name", CRITICS)
def test_so_does_a_critic_under_r1(name):
    assert max(errors(*penalty_case(name))) < CLOSE


@pytest.mark.parametrize("name", CRITICS)
@pytest.mark.parametrize("weighed", ["fixed", "adaptive"])
def test_what_a_critic_says_is_differentiated_outside_autocast(name, weighed):
    """The critic itself computes in bf16; each of the three gradients is that of this forward pass."""
    image, target = pictures()
    decoder = CNNDecoder(in_dim=3, channels=8, multipliers=(1,), blocks=1)
    adversary = Adversary(CRITICS[name](), weight=0.5, balance=weighed)
    latents, losses = image.detach().flatten(2).mT[..., :3].contiguous().requires_grad_(), {"l2": L2Loss()}

    def loss():
        torch.manual_seed(6)  # of random crops
        drawn = decoder(latents, image.shape[-2:])
        return image_terms(drawn.float(), target, losses, adversary, decoder, 0).total

    with torch.autocast("cpu", torch.bfloat16):
        drawn = decoder(latents, image.shape[-2:])
        torch.manual_seed(6)
        seen = drawn.float().detach().requires_grad_()
        fooling = adversary.fooling(seen, 0)
    guide, against = torch.autograd.grad(L2Loss()(seen, target), seen)[0], torch.autograd.grad(fooling, seen)[0]
    factor = 0.5 * (balance(drawn.float(), decoder.last_layer, guide, against) if weighed == "adaptive" else 1)
    (expected,) = torch.autograd.grad(drawn.float(), latents, guide + factor * against)
    assert relative_error(gradients_of_a_run(loss, [latents], "bf16-mixed"), [expected]) < CLOSE


@pytest.mark.parametrize("name", CRITICS)
def test_a_critic_learns_outside_autocast_what_it_said_inside(name):
    image, target = pictures()
    adversary = Adversary(CRITICS[name]())
    learning = [parameter for parameter in adversary.parameters() if parameter.requires_grad]

    def loss():
        torch.manual_seed(7)
        losses = adversary.losses(target, image.detach(), 0)
        assert losses is not None
        return losses.total

    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):  # as Lightning has it
        total = loss()
    expected = torch.autograd.grad(total, learning)
    assert relative_error(gradients_of_a_run(loss, learning, "bf16-mixed", adversary), expected) < CLOSE


def test_what_is_computed_again_for_its_gradient_is_in_fp32_once_more():
    """Activation checkpoints run a quantizer anew in the backward pass, within a net that is in bf16."""
    net, quantizer = nn.Linear(18, 18), BSQ(slot_bits=[18])
    latents = torch.randn(2, 32, 18, requires_grad=True)
    leaves = [latents, *net.parameters()]

    def of(whole):
        def loss():
            quantized = whole(latents)
            return quantized.losses["entropy_codebook"].value + quantized.latents.square().mean()

        return loss

    plain = of(lambda given: quantizer(net(given)))
    again = of(lambda given: checkpoint(lambda x: quantizer(net(x)), given, use_reentrant=False))
    expected = gradients_of_a_run(plain, leaves, "bf16-mixed")
    assert relative_error(gradients_of_a_run(again, leaves, "bf16-mixed"), expected) == 0
    inner = of(lambda given: checkpoint(quantizer, given, use_reentrant=False))
    exact = gradients_of_a_run(inner, [latents], "32-true")
    assert relative_error(gradients_of_a_run(inner, [latents], "bf16-mixed"), exact) < CLOSE


def test_the_whole_run_leaves_autocast_for_gradients_and_updates(tmp_path, monkeypatch):
    """In each micro-batch of a real run, the tokenizer's own ``backward``, the critic's, and the optimiser's step."""
    seen = []

    def noting(kind, plain):
        def noted(*args, **kwargs):
            seen.append((kind, torch.is_autocast_enabled("cpu")))
            return plain(*args, **kwargs)

        return noted

    monkeypatch.setattr(torch.Tensor, "backward", noting("backward", torch.Tensor.backward))
    monkeypatch.setattr(torch.optim.AdamW, "step", noting("step", torch.optim.AdamW.step))
    monkeypatch.setattr(Tokenizer, "forward", noting("forward", Tokenizer.forward))
    train(tiny_run(tmp_path, "trainer.max_steps=2", "trainer.precision=bf16", "trainer.accumulate=2"))
    kinds = {kind for kind, _ in seen}
    assert kinds == {"backward", "step", "forward"}
    assert not any(inside for kind, inside in seen if kind != "forward")
    assert any(inside for kind, inside in seen if kind == "forward")


def test_autocast_is_as_it_was_after_a_backward_pass():
    left, right = torch.randn(3, 3, requires_grad=True), torch.randn(3, 3)
    with torch.autocast("cpu", torch.bfloat16):
        with torch.autocast("cpu", enabled=False):
            product = left @ right
        exact_backward([product], [left])
        (found,) = torch.autograd.grad(product.sum(), [left])
        assert torch.is_autocast_enabled("cpu")
    torch.testing.assert_close(found, torch.ones(3, 3) @ right.T, rtol=1e-6, atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        with torch.autocast("cpu", enabled=False):
            product = left @ right
        assert torch.equal(gradients(product, [left], torch.ones(3, 3))[0], found)
        assert torch.is_autocast_enabled("cpu")


def test_what_adds_to_the_gradient_of_a_parameter_gets_no_hook_which_would_outlive_the_step(monkeypatch):
    """DDP keeps these nodes for the whole run: with a hook more in each step, every later step would take longer."""
    weight = torch.nn.Parameter(torch.ones(3, 3))
    kept = get_gradient_edge(weight).node
    calls: list[bool] = []
    plain = torch.set_autocast_enabled

    def noted(device: str, on: bool) -> None:
        calls.append(on)
        plain(device, on)

    counts = []
    for _ in range(3):
        with torch.autocast("cpu", torch.bfloat16):
            with torch.autocast("cpu", enabled=False):
                product = (weight @ weight).sum()
            exact_backward([product])
        with monkeypatch.context() as patch:
            patch.setattr(torch, "set_autocast_enabled", noted)
            product.backward()
        counts.append(len(calls))
        calls.clear()
    assert counts == [4, 4, 4]  # off and back, for the sum and for the product
    assert kept is get_gradient_edge(weight).node
