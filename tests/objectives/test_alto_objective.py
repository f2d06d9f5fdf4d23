"""The number of tokens costs something, and learns from what the tokens are worth."""

import pytest
import torch

from imtok.losses.pixel import L2Loss
from imtok.objectives.alto import ALToObjective
from imtok.pixels import to_float
from imtok.tokenizer import Tokenizer
from imtok.types import Batch

IMAGES = torch.randint(256, (6, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
NET = {"patch_size": 8, "width": 32, "depth": 1, "heads": 2, "start": "xavier"}


def tokenizer_of(**changes):
    torch.manual_seed(0)
    parts = {
        "encoder": {"_target_": "imtok.encoders.alto.ALToEncoder", "latents": 8, **NET},
        "quantizer": {"_target_": "imtok.quantizers.fsq.FSQ", "levels": [5, 5, 5]},
        "decoder": {"_target_": "imtok.decoders.alto.ALToDecoder", "flexible": True, **NET},
        "image_size": 32,
    }
    return Tokenizer.from_config(parts | changes)


def batch_of(rows):
    rows = torch.tensor(rows)
    return Batch(IMAGES[rows], torch.full_like(rows, -1), rows, [""] * len(rows))


def step_of(tokenizer, step, **settings):
    objective = ALToObjective({"l2": L2Loss()}, **({"length_weight": 0.1, "predict_from": 5} | settings))
    losses = objective(tokenizer, batch_of(range(6)), step, torch.Generator().manual_seed(2))
    losses.total.backward()
    return losses, [parameter.grad.abs().max().item() for parameter in tokenizer.encoder.predictor.parameters()]


def test_the_predictor_rests_while_numbers_are_drawn_at_random():
    tokenizer = tokenizer_of()
    losses, gradients = step_of(tokenizer, 4)
    assert max(gradients) == 0
    assert losses.terms["length"].value == 0
    taken = (losses.shown.quantized.latents != 0).any(-1).sum(1)
    assert len(set(taken.tolist())) > 1


def test_any_number_is_drawn_from_one_to_all():
    image, tokenizer = torch.rand(200, 3, 32, 32) * 255, tokenizer_of()
    batch = Batch(image.byte(), torch.full((200,), -1), torch.arange(200), [""] * 200)
    with torch.no_grad():
        losses = ALToObjective({"l2": L2Loss()}, predict_from=5)(tokenizer, batch, 0, torch.Generator().manual_seed(0))
        predicted = tokenizer.encoder.predicted(to_float(batch.image)).chunk.length
    taken = (losses.shown.quantized.latents != 0).any(-1)
    last = torch.where(taken, torch.arange(1, 9), 0).amax(1)  # the last that is not zero by itself
    assert set(last.tolist()) >= set(range(1, 9))
    assert losses.numbers["tokens"] == predicted.double().mean()  # what would be chosen


def test_then_it_learns_from_cost_and_image():
    losses, both = step_of(tokenizer_of(), 5)
    assert max(both) > 0
    assert losses.terms["length"].value > 0
    total = sum(term.weight * term.value for term in losses.terms.values())
    torch.testing.assert_close(losses.total, total)
    _, image_alone = step_of(tokenizer_of(), 5, length_weight=0.0)
    assert max(image_alone) > 0
    assert image_alone != both


def test_a_share_of_the_images_keeps_to_random_numbers():
    losses, _ = step_of(tokenizer_of(), 5, random_share=0.5)
    chosen, _ = step_of(tokenizer_of(), 5)
    counts = [(found.shown.quantized.latents.abs().sum(-1) > 0).sum(1) for found in (losses, chosen)]
    assert 0 < (counts[0] != counts[1]).sum() < 6


@pytest.mark.parametrize("step", [0, 5])
def test_two_micro_batches_have_the_gradients_of_one_batch(step):
    objective = ALToObjective({"l2": L2Loss()}, length_weight=0.1, predict_from=5, random_share=0.4)
    gradients = []
    for parts in ([range(6)], [range(2), range(2, 4), range(4, 6)]):
        tokenizer = tokenizer_of()
        for place, rows in enumerate(parts):  # of which each has a generator of its own
            batch, generator = batch_of(rows), torch.Generator().manual_seed(place)
            (objective(tokenizer, batch, step, generator).total / len(parts)).backward()
        gradients.append([one.grad for one in tokenizer.parameters()])
    assert any(one.abs().max() > 0 for one in gradients[0])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_another_seed_and_another_step_draw_other_numbers():
    def taken(step, seed):
        with torch.no_grad():
            objective = ALToObjective({"l2": L2Loss()}, predict_from=5, seed=seed)
            losses = objective(tokenizer_of(), batch_of(range(6)), step, torch.Generator())
        return (losses.shown.quantized.latents != 0).any(-1).sum(1).tolist()

    assert taken(0, 0) == taken(0, 0)
    assert len({tuple(taken(0, 0)), tuple(taken(1, 0)), tuple(taken(0, 1))}) == 3


def test_ids_and_their_mask_decode_to_what_is_reconstructed():
    tokenizer, image = tokenizer_of().eval(), torch.rand(2, 3, 32, 32) * 2 - 1
    tokens = tokenizer.encode(image)
    assert tokens.keep is not None
    assert torch.equal(tokenizer.decode(tokens), tokenizer(image).image.clamp(-1, 1))


def test_parts_that_do_not_suit_are_refused():
    other = {"encoder": {"_target_": "imtok.encoders.titok.TiTokEncoder", "latents": 8, **NET}}
    with pytest.raises(ValueError, match="encoder must be alto for the objective alto, got TiTokEncoder"):
        step_of(tokenizer_of(**other), 0)
    dropped = {"regularizer": {"_target_": "imtok.regularizers.prefix.NestedDropout"}}
    with pytest.raises(ValueError, match="regularizer must be none for the objective alto"):
        step_of(tokenizer_of(**dropped), 0)
    with pytest.raises(ValueError, match=r"random_share must be in \[0, 1\), got 0.1, 5 and 1.0"):
        step_of(tokenizer_of(), 0, random_share=1.0)
