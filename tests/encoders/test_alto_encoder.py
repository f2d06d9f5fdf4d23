"""Latents that do not depend on those after them, and as many as an image needs."""

import pytest
import torch

from imtok.encoders.alto import ALToEncoder

IMAGE = torch.rand(3, 3, 32, 32) * 2 - 1


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return ALToEncoder(6, image_size=32, latents=8, patch_size=8, width=32, depth=2, heads=2, start="xavier").eval()


def test_the_first_latents_are_the_same_whatever_follows(encoder):
    whole = encoder(IMAGE).values
    for length in (1, 3, 8):
        latents = encoder(IMAGE, length)
        assert torch.equal(latents.values, whole[:, :length])
        assert latents.keep is None
    with torch.no_grad():
        encoder.latents[5, 0] += 1
    changed = encoder(IMAGE).values
    torch.testing.assert_close(changed[:, :5], whole[:, :5])
    assert not torch.allclose(changed[:, 5:], whole[:, 5:])


def test_what_is_kept_is_what_the_predictor_takes(encoder):
    with torch.no_grad():
        for layer in (encoder.predictor.value, encoder.predictor.query):
            layer.weight.mul_(20)  # so that images differ
    chunk = encoder.predicted(IMAGE).chunk
    assert torch.equal(encoder(IMAGE).keep.sum(1), chunk.length)
    assert torch.equal(encoder(IMAGE).keep, chunk.present > 0.5)
    assert encoder.num_latents((32, 32)) == 8


def test_the_class_token_asks_how_many_are_needed(encoder, monkeypatch):
    asked = []
    monkeypatch.setattr(encoder.predictor, "forward", lambda *given: asked.extend(given))
    tokens = torch.randn(3, 1 + 16 + 8, 32)
    monkeypatch.setattr(encoder, "sequence", lambda image, visible: tokens)
    encoder.predicted(IMAGE)
    assert torch.equal(asked[0], encoder.norm_out(tokens[:, 17:]))
    assert torch.equal(asked[1], encoder.norm_out(tokens[:, 0]))


@pytest.mark.parametrize("length", [0, 9])
def test_other_lengths_are_refused(encoder, length):
    with pytest.raises(ValueError, match=rf"length must lie in \[1, 8\] latents, got {length}"):
        encoder(IMAGE, length)
