"""ALIT and KARL against a critic: who learns from what, in which step, and that every image of a step is judged."""

import pytest
import torch
from torch.nn import functional as F

from imtok.critics.patchgan import PatchGAN
from imtok.losses.adversarial import Adversary
from imtok.losses.pixel import L1Loss
from imtok.objectives.alit import ALITFinetuning
from imtok.objectives.karl import KARLFinetuning
from imtok.pixels import to_float
from imtok.tokenizer import Tokenizer
from imtok.types import Batch

NET = {"channels": 16, "multipliers": [1, 2, 2], "blocks": 1, "codes": 8, "code_dim": 8}
SIZES = {"width": 24, "depth": 1, "heads": 2}
PARTS = {
    "alit": (
        {"_target_": "imtok.encoders.alit.ALITEncoder", "latents": 2, "rollouts": 3, **SIZES},
        {"_target_": "imtok.decoders.alit.ALITDecoder", "flexible": True, **SIZES, **NET},
    ),
    "karl": (
        {"_target_": "imtok.encoders.karl.KARLEncoder", "latents": 8, **SIZES},
        {"_target_": "imtok.decoders.karl.KARLDecoder", **SIZES, **NET},
    ),
}
STARTS = {"critic_start": 2, "generator_start": 4}


@pytest.fixture(params=list(PARTS))
def name(request):
    return request.param


def tokenizer(name):
    torch.manual_seed(1)
    encoder, decoder = PARTS[name]
    quantizer = {"_target_": "imtok.quantizers.vq.VQ", "dim": 4, "codebook_size": 32}
    space = {"_target_": "imtok.spaces.vqgan.MAGEVQGAN", **NET}
    config = {"encoder": encoder, "quantizer": quantizer, "decoder": decoder, "space": space, "image_size": 32}
    return Tokenizer.from_config(config).train()


def objective(name, **arguments):
    torch.manual_seed(2)
    adversary = Adversary(PatchGAN(4, 2), weight=0.7, **arguments) if arguments else None
    if name == "alit":
        return ALITFinetuning({"l1": L1Loss()}, adversary)
    return KARLFinetuning({"l1": L1Loss()}, budget_step=2, spread=0.0, adversary=adversary)


@pytest.fixture
def batch():
    image = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    return Batch(image, torch.tensor([0, 1]), torch.tensor([0, 1]), ["a", "b"])


def seeded():
    return torch.Generator().manual_seed(0)


def evaluations(critic):
    """A list that grows with every image that the critic is shown in a batch."""
    seen = []
    critic.register_forward_hook(lambda _module, inputs, _scores: seen.append(inputs[0].detach()))
    return seen


def gradients(module):
    return {name: value.grad for name, value in module.named_parameters() if value.grad is not None}


def adversarial(losses):
    return {name: term for name, term in losses.terms.items() if name.startswith("adversarial")}


@pytest.mark.parametrize("balance", ["fixed", "adaptive"])
def test_each_side_learns_from_its_own_step_alone(name, balance, batch):
    net, game = tokenizer(name), objective(name, balance=balance)
    losses = game(net, batch, 0, seeded())
    losses.total.backward()
    assert gradients(game.critic) == {}, "the tokenizer's step must leave nothing in the critic"
    assert all(value.grad is not None for value in net.parameters() if value.requires_grad)
    net.zero_grad()
    found = game.critic_loss(losses.shown, 0)
    found.total.backward()
    assert gradients(net) == {}, "the critic's step must leave nothing in the tokenizer"
    assert gradients(game.critic).keys() == dict(game.critic.named_parameters()).keys()
    shown = losses.shown
    real, fake = (game.adversary.critic(image) for image in (shown.target, shown.image.detach()))
    torch.testing.assert_close(found.total, (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2)


def test_before_its_start_the_critic_is_not_even_asked(name, batch):
    net, game, without = tokenizer(name), objective(name, balance="adaptive", **STARTS), objective(name)
    seen = evaluations(game.adversary.critic)
    for step in range(4):
        if name == "karl":
            without.odds.copy_(game.odds)
        losses, expected = game(net, batch, step, seeded()), without(net, batch, step, seeded())
        assert seen == [], "the tokenizer must not ask the critic before generator_start"
        assert torch.equal(losses.total, expected.total)
        assert adversarial(losses) == {}
        found = game.critic_loss(losses.shown, step)
        assert (found is None) == (step < 2)
        assert len(seen) == (0 if found is None else 2)
        seen.clear()
    assert adversarial(game(net, batch, 4, seeded()))
    assert seen


@pytest.mark.parametrize("balance", ["fixed", "adaptive"])
def test_every_image_of_a_step_is_judged_and_the_gradient_is_that_of_the_terms(name, balance, batch):
    """Against the losses as they stand, differentiated through the critic; of KARL, in both passes."""
    net, game = tokenizer(name), objective(name, balance=balance)
    made = []
    hook = net.decoder.register_forward_hook(lambda _module, _inputs, image: made.append(image))
    losses = game(net, batch, 1, seeded())
    hook.remove()
    assert len(made) == (1 if name == "alit" else 2)
    assert losses.shown.image is made[-1] or torch.equal(losses.shown.image, made[-1])
    keys = ["adversarial"] if name == "alit" else ["adversarial_estimate", "adversarial_tokenize"]
    assert list(adversarial(losses)) == keys
    expected = sum(value.item() * weight for value, weight in losses.terms.values())
    assert losses.total.item() == pytest.approx(expected, rel=1e-6)
    losses.total.backward()
    found = gradients(net)

    net.zero_grad()
    again, target = [], to_float(batch.image)
    hook = net.decoder.register_forward_hook(lambda _module, _inputs, image: again.append(image))
    plain = objective(name)(net, batch, 1, seeded()).total  # all the other terms
    hook.remove()
    for key, image, before in zip(keys, again, made, strict=True):
        assert torch.equal(image, before)
        ratio = 1.0
        fooling = -game.adversary.critic(image).mean()
        if balance == "adaptive":
            pixels = net.decoder.last_layer
            guide, against = (
                torch.autograd.grad(loss, pixels, retain_graph=True)[0].norm()
                for loss in ((image - target).abs().mean(), fooling)
            )
            ratio = (guide / (against + 1e-4)).clamp(0, 1e4).item()
        value, weight = losses.terms[key]
        assert weight == 0.7
        torch.testing.assert_close(value, fooling.detach() * ratio, rtol=1e-4, atol=1e-7)
        plain = plain + 0.7 * ratio * fooling
    plain.backward()
    for key, value in gradients(net).items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-6, msg=lambda text, key=key: f"{key}: {text}")


def test_a_step_of_either_optimiser_moves_its_own_side(name, batch):
    """As a training loop does it, with the critic's gradients on: nothing must be there to step on."""
    net, game = tokenizer(name), objective(name, balance="fixed", **STARTS)
    sides = {"tokenizer": net, "critic": game.critic}
    optimizers = {
        side: torch.optim.Adam([value for value in module.parameters() if value.requires_grad], 1e-3)
        for side, module in sides.items()
    }
    for step in (0, 3, 5):
        before = {side: [value.clone() for value in module.parameters()] for side, module in sides.items()}
        losses = game(net, batch, step, seeded())
        losses.total.backward()
        optimizers["tokenizer"].step()
        optimizers["critic"].step()  # has no gradient to act on
        assert all(map(torch.equal, game.critic.parameters(), before["critic"]))
        assert not all(map(torch.equal, net.parameters(), before["tokenizer"]))
        for optimizer in optimizers.values():
            optimizer.zero_grad()
        found = game.critic_loss(losses.shown, step)
        assert (found is None) == (step < 2)
        if found is not None:
            after = [value.clone() for value in net.parameters()]
            found.total.backward()
            optimizers["critic"].step()
            optimizers["critic"].zero_grad()
            assert all(map(torch.equal, net.parameters(), after))
            assert not all(map(torch.equal, game.critic.parameters(), before["critic"]))
