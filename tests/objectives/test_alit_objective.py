"""ALIT's two stages: every rollout weighs what it should, one rollout per step in turn, and what is taken out."""

import pytest
import torch
from torch.nn import functional as F

from imtok.losses.pixel import L1Loss
from imtok.objectives.alit import ALITDistillation, ALITFinetuning
from imtok.pixels import to_float
from imtok.tokenizer import Tokenizer
from imtok.types import Batch

NET = {"channels": 16, "multipliers": [1, 2, 2], "blocks": 1, "codes": 8, "code_dim": 8}


@pytest.fixture
def tokenizer():
    sizes = {"width": 24, "depth": 1, "heads": 2}
    return Tokenizer.from_config(
        {
            "encoder": {"_target_": "imtok.encoders.alit.ALITEncoder", "latents": 2, "rollouts": 3, **sizes},
            "quantizer": {"_target_": "imtok.quantizers.vq.VQ", "dim": 4, "codebook_size": 32},
            "decoder": {"_target_": "imtok.decoders.alit.ALITDecoder", "flexible": True, **sizes, **NET},
            "space": {"_target_": "imtok.spaces.vqgan.MAGEVQGAN", **NET},
            "image_size": 32,
        }
    ).train()


@pytest.fixture
def batch():
    image = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    return Batch(image, torch.tensor([0, 1]), torch.tensor([0, 1]), ["a", "b"])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_every_rollout_is_scored_against_the_frozen_codes(tokenizer, batch):
    losses = ALITDistillation([3.0, 2.0, 1.0], halt_above=1.0)(tokenizer, batch, 0, generator())
    image = to_float(batch.image)
    codes, table = tokenizer.space.ids(image), tokenizer.space.codebook
    expected = torch.zeros(())
    for length, weight in ((2, 3.0), (4, 2.0), (6, 1.0)):
        quantized = tokenizer.quantize(image, length)
        scores = tokenizer.decoder.logits(quantized.latents, (32, 32))
        entropy = F.cross_entropy(scores.flatten(0, 1), codes.flatten())
        mixture = (scores.softmax(-1) @ table - table[codes]).square().mean()
        torch.testing.assert_close(losses.terms[f"codes_{length}"].value, entropy)
        assert losses.terms[f"codes_{length}"].weight == weight
        expected = expected + weight * entropy + mixture + sum(v * w for v, w in quantized.losses.values())
    torch.testing.assert_close(losses.total, expected)


def test_what_is_told_well_is_taken_out_of_later_rollouts(tokenizer, batch):
    """At a threshold of 0 all image tokens may go, so that later latents differ; the first rollout cannot."""
    none, some = (
        ALITDistillation([1.0, 1.0, 1.0], halt_above=above)(tokenizer, batch, 0, generator()).terms
        for above in (1.0, 0.0)
    )
    assert torch.equal(none["codes_2"].value, some["codes_2"].value)
    assert not torch.equal(none["commit"].value, some["commit"].value)


def test_an_image_token_is_taken_out_with_the_chance_that_it_is_told():
    objective = ALITDistillation(halt_above=0.55)
    chances = torch.tensor([0.5, 0.6, 0.9])
    logits = torch.stack([chances.log(), (1 - chances).log()], -1).expand(4000, 3, 2)
    halted = objective._halt(logits, torch.zeros(4000, 3, dtype=torch.int64), generator())
    torch.testing.assert_close(halted.float().mean(0), torch.tensor([0.0, 0.6, 0.9]), atol=0.03, rtol=0)


def test_fine_tuning_takes_the_next_rollout_in_every_step(tokenizer, batch):
    objective = ALITFinetuning({"l1": L1Loss()})
    for step, length in ((0, 2), (1, 4), (2, 6), (3, 2)):
        losses = objective(tokenizer, batch, step, generator())
        assert losses.shown.quantized.ids.shape == (2, length, 1)
        assert set(losses.terms) == {"l1", "codebook", "commit"}
        expected = sum(value * weight for value, weight in losses.terms.values())
        torch.testing.assert_close(losses.total, expected)


@pytest.mark.parametrize("objective", [ALITDistillation([1.0, 1.0, 1.0]), ALITFinetuning({"l1": L1Loss()})])
def test_every_parameter_has_a_gradient_in_every_step(tokenizer, batch, objective):
    """DDP waits for all of them, whatever the rollout; the frozen net has none."""
    if isinstance(objective, ALITDistillation):
        tokenizer.freeze(["decoder.codebook", "decoder.pixels"])
    for step in range(3):
        tokenizer.zero_grad()
        objective(tokenizer, batch, step, generator()).total.backward()
        for name, parameter in tokenizer.named_parameters():
            assert (parameter.grad is not None) == parameter.requires_grad, name
    assert not any(parameter.requires_grad for parameter in tokenizer.space.parameters())


def test_another_number_of_rollouts_is_refused(tokenizer, batch):
    with pytest.raises(ValueError, match="rollout_weights must be 3, one per rollout, got 8"):
        ALITDistillation()(tokenizer, batch, 0, generator())
