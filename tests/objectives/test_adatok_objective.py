"""The policy learns which budget an image is worth; the tokenizer learns all of them."""

import pytest
import torch

from imtok.losses.pixel import L2Loss
from imtok.objectives.adatok import AdaTokObjective
from imtok.pixels import to_float
from imtok.tokenizer import Tokenizer
from imtok.types import Batch, Condition

BUDGETS = [1, 2, 4, 8]
IMAGES = torch.randint(256, (6, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
NET = {"_target_": "imtok.encoders.linear.LinearEncoder", "latents": 8}


def tokenizer_of(**changes):
    torch.manual_seed(0)
    parts = {
        "encoder": {"_target_": "imtok.encoders.adatok.AdaTokEncoder", "net": NET, "budgets": BUDGETS},
        "quantizer": {"_target_": "imtok.quantizers.fsq.FSQ", "levels": [5, 5, 5]},
        "decoder": {"_target_": "imtok.decoders.linear.LinearDecoder", "width": 16},
        "image_size": 16,
    }
    return Tokenizer.from_config(parts | changes)


def batch_of(rows):
    rows = torch.tensor(list(rows))
    return Batch(IMAGES[rows], torch.full_like(rows, -1), rows, [""] * len(rows))


def step_of(tokenizer, step, rows=range(6), parts=1, **settings):
    objective = AdaTokObjective({"l2": L2Loss()}, **({"policy_from": 5} | settings))
    losses = objective(tokenizer, batch_of(rows), step, torch.Generator().manual_seed(len(rows)))
    (losses.total / parts).backward()
    return losses


def gradient_of(part):
    return max(one.grad.abs().max().item() for one in part.parameters())


def test_before_its_step_the_policy_rests_and_budgets_are_drawn():
    tokenizer = tokenizer_of()
    losses = step_of(tokenizer, 4)
    assert gradient_of(tokenizer.encoder.policy) == 0 < gradient_of(tokenizer.encoder.net)
    assert set(losses.shown.quantized.keep.sum(1).tolist()) <= set(BUDGETS)
    drawn = [step_of(tokenizer, step).shown.quantized.keep.sum(1) for step in range(4)]
    assert set(torch.cat(drawn).tolist()) == set(BUDGETS)
    assert len({tuple(lengths.tolist()) for lengths in drawn}) > 1
    assert not torch.equal(step_of(tokenizer, 0, seed=1).shown.quantized.keep.sum(1), drawn[0])


def test_then_it_learns_and_the_tokenizer_learns_the_same_as_without_it():
    tokenizer, without = tokenizer_of(), tokenizer_of()
    losses = step_of(tokenizer, 5)
    step_of(without, 5, policy_from=6)
    assert gradient_of(tokenizer.encoder.policy) > 0
    assert losses.numbers["tokens"] == 1  # no budget is better than another one at first
    for one, other in zip(tokenizer.decoder.parameters(), without.decoder.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)
    total = sum(term.weight * term.value for term in losses.terms.values())
    torch.testing.assert_close(losses.total, total)


def test_rewards_are_errors_and_costs_of_each_budget():
    tokenizer, target = tokenizer_of().eval(), to_float(IMAGES)
    objective = AdaTokObjective({"l2": L2Loss()}, cost=0.3)
    rewards = objective.rewards(tokenizer, target, tokenizer.quantizer(tokenizer.encoder.latents(target)))
    for place, budget in enumerate(BUDGETS):
        error = (tokenizer(target, length=budget).image - target).square().mean((1, 2, 3))
        torch.testing.assert_close(rewards[:, place], -error - 0.3 * budget / 8)
    expected = objective(tokenizer, batch_of(range(6)), 0, torch.Generator()).numbers["reward"]
    torch.testing.assert_close(expected, rewards.mean())  # all budgets are as likely at first


def test_encoder_and_decoder_are_told_the_condition(monkeypatch):
    tokenizer, told, condition = tokenizer_of(), [], Condition()
    monkeypatch.setattr(tokenizer, "condition_of", lambda batch: condition)
    for part in (tokenizer.encoder.net, tokenizer.decoder):
        part.register_forward_pre_hook(lambda _, given: told.append(given[-1]))
    step_of(tokenizer, 5)
    assert len(told) == 2 + len(BUDGETS)
    assert all(one is condition for one in told)


def test_probabilities_tend_to_one_plus_the_advantage_over_rest():
    rewards = torch.tensor([[-3.0, -1.0, -1.5, -2.0], [0.0, 1.0, 4.0, 2.0]])
    advantages = (rewards - rewards.mean(1, keepdim=True)) / rewards.std(1, unbiased=False, keepdim=True)
    scores = torch.zeros(2, 4, requires_grad=True)
    objective = AdaTokObjective({"l2": L2Loss()}, rest=2.0)
    optimizer = torch.optim.SGD([scores], lr=2.0)
    for _ in range(300):
        optimizer.zero_grad()
        objective.policy_loss(scores, rewards).backward()
        optimizer.step()
    torch.testing.assert_close(scores.softmax(-1).detach(), (1 + advantages / 2) / 4, rtol=1e-3, atol=1e-4)


def test_images_of_more_detail_get_more_tokens_if_these_help_them():
    """Rewards of which half of the images, the noisy ones, are better the longer they are."""
    torch.manual_seed(0)
    encoder, objective = tokenizer_of().encoder, AdaTokObjective({"l2": L2Loss()})
    noisy = torch.arange(32) % 2 == 0
    image = torch.where(noisy[:, None, None, None], torch.rand(32, 3, 16, 16) * 2 - 1, torch.rand(32, 3, 1, 1) * 2 - 1)
    slope = torch.where(noisy, 1.0, -1.0)[:, None]
    optimizer = torch.optim.Adam(encoder.policy.parameters(), lr=1e-2)
    for _ in range(30):
        optimizer.zero_grad()
        objective.policy_loss(encoder.policy(image), slope * torch.arange(4)).backward()
        optimizer.step()
    lengths = encoder(image).keep.sum(1)
    assert (lengths[noisy] == 8).all()
    assert (lengths[~noisy] == 1).all()


@pytest.mark.parametrize("step", [0, 5])
def test_micro_batches_have_the_gradients_of_one_batch(step):
    gradients = []
    for parts in ([range(6)], [range(2), range(2, 4), range(4, 6)]):
        tokenizer = tokenizer_of()
        for rows in parts:
            step_of(tokenizer, step, rows, len(parts))
        gradients.append([one.grad for one in tokenizer.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_parts_that_do_not_suit_are_refused():
    with pytest.raises(ValueError, match="encoder must be adatok for the objective adatok, got LinearEncoder"):
        step_of(tokenizer_of(encoder=NET), 0)
    dropped = {"regularizer": {"_target_": "imtok.regularizers.prefix.NestedDropout"}}
    with pytest.raises(ValueError, match="regularizer must be none for the objective adatok"):
        step_of(tokenizer_of(**dropped), 0)
    with pytest.raises(ValueError, match="must not be negative"):
        step_of(tokenizer_of(), 0, cost=-1.0)
