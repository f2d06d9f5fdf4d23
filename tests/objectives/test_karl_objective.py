"""KARL's two passes: what each is asked for, what is to halt, and how wanted errors are drawn."""

import pytest
import torch
from torch.nn import functional as F

from imtok.encoders.karl import ERRORS
from imtok.losses.pixel import L1Loss
from imtok.objectives.karl import KARLDistillation, KARLFinetuning
from imtok.pixels import to_float
from imtok.tokenizer import Tokenizer
from imtok.types import Batch

NET = {"channels": 16, "multipliers": [1, 2, 2], "blocks": 1, "codes": 8, "code_dim": 8}


@pytest.fixture
def tokenizer():
    sizes = {"width": 24, "depth": 1, "heads": 2}
    return Tokenizer.from_config(
        {
            "encoder": {"_target_": "imtok.encoders.karl.KARLEncoder", "latents": 8, **sizes},
            "quantizer": {"_target_": "imtok.quantizers.vq.VQ", "dim": 4, "codebook_size": 32},
            "decoder": {"_target_": "imtok.decoders.karl.KARLDecoder", **sizes, **NET},
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


class Watched:
    """Notes what an encoder is asked for, and what it answers."""

    def __init__(self, encoder):
        self.calls, self.judge = [], encoder.judge
        encoder.judge = self

    def __call__(self, image, length, level):
        answer = self.judge(image, length, level)
        self.calls.append((length, level, answer[1]))
        return answer


def test_the_second_pass_asks_for_what_the_first_has_reached(tokenizer, batch):
    watched = Watched(tokenizer.encoder)
    objective = KARLFinetuning({"l1": L1Loss()}, budget_step=2, spread=0.0)
    losses = objective(tokenizer, batch, 0, generator())
    (budget, wanted, odds), (length, level, second_odds) = watched.calls
    assert budget in (2, 4, 6, 8)
    assert length is None
    assert all(ERRORS[index] <= 0.04 for index in wanted.tolist())
    image = to_float(batch.image)
    latents, _ = watched.judge(image, budget, wanted)
    with torch.no_grad():
        first = tokenizer.decoder(tokenizer.quantizer(latents).latents, (32, 32))
    error = (first - image).abs().mean((1, 2, 3)) / 2
    assert torch.equal(level, tokenizer.encoder.level(error))
    torch.testing.assert_close(losses.terms["l1_estimate"].value, 2 * error.mean())
    target = F.binary_cross_entropy_with_logits
    torch.testing.assert_close(losses.terms["active_estimate"].value, target(odds, torch.zeros_like(odds)))
    active, halted = second_odds[:, :budget], second_odds[:, budget:]
    torch.testing.assert_close(losses.terms["active_tokenize"].value, target(active, torch.zeros_like(active)))
    if budget < 8:
        torch.testing.assert_close(losses.terms["halted_tokenize"].value, target(halted, torch.ones_like(halted)))


def test_the_second_image_is_made_of_what_did_not_halt(tokenizer, batch):
    with torch.no_grad():
        tokenizer.encoder.halting[-1].bias.fill_(1.0986)  # at the threshold: some halt, some do not
        tokenizer.encoder.halting[-1].weight.mul_(50)
    shown = KARLFinetuning({"l1": L1Loss()}, budget_step=2)(tokenizer, batch, 0, generator()).shown
    kept = shown.quantized.keep.sum(1)
    assert 0 < kept.sum() < 16
    assert not shown.quantized.ids[~shown.quantized.keep].any()
    for row in range(2):
        with torch.no_grad():
            alone = tokenizer.decoder(
                shown.quantized.latents[row : row + 1], (32, 32), shown.quantized.keep[row : row + 1]
            )
        torch.testing.assert_close(alone[0], shown.image[row], rtol=1e-4, atol=1e-4)


def test_budgets_are_the_multiples_of_a_step_up_to_the_largest(tokenizer, batch):
    """The public code also draws some that are larger than the budget of the second pass."""
    watched = Watched(tokenizer.encoder)
    objective = KARLDistillation(budget_step=2)
    with torch.no_grad():
        for seed in range(40):
            objective(tokenizer, batch, seed, generator(seed))
    assert {length for length, _, _ in watched.calls} == {2, 4, 6, 8, None}


def test_errors_that_were_reached_are_wanted_less_and_less():
    objective = KARLDistillation()
    torch.testing.assert_close(objective.odds[:5], torch.full((5,), 0.2))
    assert not objective.odds[5:].any()
    objective._note(torch.tensor([0.3, 0.025]))
    torch.testing.assert_close(objective.odds[3] / objective.odds[2], torch.tensor(0.99))
    torch.testing.assert_close(objective.odds.sum(), torch.ones(()))
    for _ in range(3000):
        objective._note(torch.tensor([0.015]))
    torch.testing.assert_close(objective.odds[:3], torch.tensor([0.5, 0.5, 0.0]))
    drawn = objective._draw(4000, generator())
    torch.testing.assert_close(torch.bincount(drawn) / 4000, torch.tensor([0.5, 0.5]), atol=0.03, rtol=0)
    assert "odds" in objective.state_dict()  # so that a resumed run goes on with them


def test_a_wanted_error_moves_down_at_the_largest_budget_and_up_at_a_small_one(tokenizer):
    objective, encoder = KARLDistillation(budget_step=2, spread=1.0), tokenizer.encoder
    errors = torch.tensor(ERRORS)
    level = encoder.level(errors)
    down, up, same = (
        torch.stack([objective._wanted(encoder, errors, budget, generator(seed)) for seed in range(200)])
        for budget in (8, 4, 6)
    )
    assert (down <= level).all()
    assert (down[:, 2:].min(0).values == 1).all()
    assert (down[:, :2] == level[:2]).all()  # nothing lower is left
    assert (up >= level).all()
    assert (up[:, :-1] > level[:-1]).any()
    assert (same == level).all()


@pytest.mark.parametrize(
    "objective", [KARLDistillation(budget_step=2), KARLFinetuning({"l1": L1Loss()}, budget_step=2)]
)
def test_every_parameter_has_a_gradient_and_terms_have_the_same_names_in_every_step(tokenizer, batch, objective):
    """Ranks that draw other budgets must not wait for each other."""
    tokenizer.freeze(["decoder.codebook", "decoder.pixels"] if isinstance(objective, KARLDistillation) else [])
    names = set()
    for seed in range(4):
        tokenizer.zero_grad()
        losses = objective(tokenizer, batch, seed, generator(seed))
        names.add(tuple(losses.terms))
        losses.total.backward()
        for name, parameter in tokenizer.named_parameters():
            assert (parameter.grad is not None) == parameter.requires_grad, name
    assert len(names) == 1
    expected = sum(value * weight for value, weight in losses.terms.values())
    torch.testing.assert_close(losses.total, expected)


def test_statistics_of_both_passes_add_up(tokenizer, batch):
    tokenizer.quantizer = type(tokenizer.quantizer)(dim=4, codebook_size=32, restart_below=0.1)
    watched = Watched(tokenizer.encoder)
    losses = KARLDistillation(budget_step=2)(tokenizer, batch, 0, generator())
    kept = losses.shown.quantized.keep.sum()
    counts = [value for value in losses.shown.quantized.stats.values() if value.shape == (32,)]
    assert counts
    assert counts[0].sum() == 2 * watched.calls[0][0] + kept
