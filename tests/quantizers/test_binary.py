"""What only binary latents promise."""

import pytest
import torch

from imtok.quantizers.binary import Binary


def test_training_draws_each_bit_with_its_probability():
    logits = torch.linspace(-0.3, 0.3, 8)
    bits = Binary([8], temperature=0.1)(logits.expand(1, 20_000, 8)).latents[0]
    expected = (logits / 0.1).sigmoid()
    spread = (expected * (1 - expected) / 20_000).sqrt()
    assert ((bits.mean(0) - expected).abs() < 4 * spread).all()
    assert set(bits.unique().tolist()) == {0.0, 1.0}


def test_ids_follow_the_drawn_bits():
    quantizer = Binary([8] * 8)
    quantized = quantizer(0.05 * torch.randn(2, 50, 64))
    assert torch.equal(quantizer.decode(quantized.ids), quantized.latents)
    places = 2 ** torch.arange(8)
    assert torch.equal((quantized.latents.long().unflatten(-1, (8, 8)) * places).sum(-1), quantized.ids)


def test_the_seed_decides_the_draw_in_training_and_nothing_in_evaluation():
    quantizer, latents = Binary([8, 8]), 0.05 * torch.randn(2, 50, 16)

    def ids(seed):
        torch.manual_seed(seed)
        return quantizer(latents).ids

    assert torch.equal(ids(0), ids(0))
    assert not torch.equal(ids(0), ids(1))
    quantizer.eval()
    state = torch.get_rng_state()
    assert torch.equal(quantizer(latents).latents, (latents > 0).float())
    assert torch.equal(torch.get_rng_state(), state)


def test_the_gradient_is_that_of_the_sigmoid_without_temperature():
    latents = torch.linspace(-3, 3, 16, dtype=torch.float64)[None, None].requires_grad_()
    Binary([8, 8], temperature=0.1)(latents).latents.sum().backward()
    likely = latents.detach().sigmoid()
    torch.testing.assert_close(latents.grad, likely * (1 - likely))


def test_a_code_is_the_sum_of_the_embeddings_of_its_bits():
    quantizer = Binary([8, 8]).eval()
    embeddings, ids = torch.randn(16, 32), torch.tensor([[[0, 0], [1, 0], [3, 128]]])
    latents = quantizer.decode(ids) @ embeddings
    assert not latents[0, 0].any()
    torch.testing.assert_close(latents[0, 1], embeddings[0])
    torch.testing.assert_close(latents[0, 2], embeddings[0] + embeddings[1] + embeddings[15])


def test_confidence_is_the_mean_variance_of_the_bits():
    latents = torch.randn(2, 5, 8)
    value, weight = Binary([8], confidence_weight=0.3)(latents).losses["confidence"]
    likely = latents.sigmoid()
    torch.testing.assert_close(value, (likely * (1 - likely)).mean())
    assert weight == 0.3
    assert not Binary([8])(latents).losses


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
        ({"confidence_weight": -1.0}, "confidence_weight must not be negative, got -1.0"),
    ],
)
def test_settings_out_of_range_are_refused_with_their_value(wrong, message):
    with pytest.raises(ValueError, match=message):
        Binary([8], **wrong)


def test_a_channel_of_exactly_zero_is_a_bit_of_zero_in_evaluation():
    quantized = Binary(slot_bits=[3]).eval()(torch.tensor([[[0.0, -0.0, 1e-30]]]))
    assert quantized.latents.tolist() == [[[0, 0, 1]]]
    assert quantized.ids.item() == 4
