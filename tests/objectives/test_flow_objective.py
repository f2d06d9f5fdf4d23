"""A step of training a decoder that draws: its parts, what stays frozen, and that it learns."""

import pytest
import torch
from objectives.flow import CONFIG, seeded

from imtok.objectives.flow import FlowObjective
from imtok.tokenizer import Tokenizer
from imtok.types import Batch


@pytest.fixture
def tokenizer():
    return Tokenizer.from_config(CONFIG).train()


@pytest.fixture
def batch():
    image = torch.randint(256, (6, 3, 16, 16), dtype=torch.uint8)
    return Batch(image, torch.full((6,), -1), torch.arange(6), [str(index) for index in range(6)])


def test_a_step_makes_no_image_and_shows_the_tokens_that_the_regulariser_left(tokenizer, batch):
    losses = FlowObjective()(tokenizer, batch, 0, seeded())
    assert losses.shown.image is None
    assert losses.shown.quantized.keep.sum(1).unique().numel() > 1
    assert list(losses.terms) == ["velocity"]
    torch.testing.assert_close(losses.total, losses.terms["velocity"].value)
    losses = FlowObjective()(tokenizer.eval(), batch, 0, seeded())
    assert losses.shown.quantized.keep is None


def test_an_image_passes_the_frozen_encoder_once_a_step(tokenizer, batch):
    calls = []
    tokenizer.space.encoder.register_forward_hook(lambda *_: calls.append(1))
    FlowObjective()(tokenizer, batch, 0, seeded())
    assert len(calls) == 1
    FlowObjective()(tokenizer, batch, 0, seeded())
    assert len(calls) == 2


def test_training_lowers_the_loss_and_leaves_the_space_bit_for_bit(tokenizer, batch):
    """Every other part learns; on the same images, the same times and the same noise."""
    before = {name: value.clone() for name, value in tokenizer.state_dict().items()}
    optimizer = torch.optim.Adam([value for value in tokenizer.parameters() if value.requires_grad], 3e-3)
    objective, history = FlowObjective(), []
    for _ in range(40):
        loss = objective(tokenizer, batch, 0, seeded()).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < 0.8 * history[0]
    assert not any(module.training for module in tokenizer.space.modules())
    unmoved = {name for name, value in tokenizer.state_dict().items() if torch.equal(value, before[name])}
    assert unmoved == {name for name in before if name.startswith("space.")}
    assert all(value.grad is None for value in tokenizer.space.parameters())


def test_a_saved_tokenizer_decodes_the_same_images(tokenizer, batch, tmp_path):
    tokenizer.eval().save(tmp_path)
    image = torch.rand(1, 3, 16, 16) * 2 - 1
    tokens = tokenizer.encode(image, length=2)
    loaded = Tokenizer.load(tmp_path)
    assert torch.equal(loaded.decode(tokens, (16, 16)), tokenizer.decode(tokens, (16, 16)))
    assert torch.equal(loaded.encode(image).ids[:, :2], tokens.ids)


def test_a_decoder_that_does_not_draw_is_refused(batch):
    config = {
        "encoder": {"_target_": "imtok.encoders.patch.PatchEncoder", "patch_size": 8, "width": 16, "depth": 1},
        "quantizer": CONFIG["quantizer"],
        "decoder": {"_target_": "imtok.decoders.patch.PatchDecoder", "patch_size": 8, "width": 16, "depth": 1},
    }
    with pytest.raises(ValueError, match="decoder must be one that draws for the objective flow, got PatchDecoder"):
        FlowObjective()(Tokenizer.from_config(config), batch, 0, seeded())
