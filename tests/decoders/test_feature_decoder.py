"""VFMTok's decoder: pixels and features from the same blocks, the features in training alone."""

from typing import Any

import pytest
import torch
from encoders.filled import filled, wave

from imtok.decoders.vfmtok import FeatureDecoder
from imtok.nn.taps import tapped

SIZES: dict[str, Any] = {
    "width": 16,
    "depth": 2,
    "heads": 2,
    "hidden": 24,
    "channels": 32,
    "multipliers": (1, 1, 1),
    "blocks": 1,
}


@pytest.fixture
def decoder():
    torch.manual_seed(0)
    return FeatureDecoder(6, num_latents=9, image_size=32, feature_dim=10, factor=8, **SIZES).double()


@pytest.fixture
def latents():
    return torch.randn(2, 9, 6, dtype=torch.float64)


def made(decoder, latents, size=(32, 32)):
    """The image, and the features if there are any."""
    with tapped(decoder, ["features"]) as taps:
        return decoder(latents, size), taps.get("features")


def test_features_are_made_in_training_alone_and_the_image_is_the_same(decoder, latents):
    image, features = made(decoder, latents)
    alone, none = made(decoder.eval(), latents)
    assert features.shape == (2, 16, 10)
    assert none is None
    assert torch.equal(image, alone)


def test_image_and_features_stay_what_they_were_when_they_equalled_the_official_module(decoder):
    """As docs/parity.md says."""
    image, features = made(filled(decoder).train(), wave(2, 9, 6))
    found = torch.stack([image.flatten()[[0, 3000, 6143]], features.flatten()[[0, 150, 319]]])
    torch.testing.assert_close(found, torch.tensor(GOLDEN, dtype=torch.float64), rtol=1e-9, atol=1e-12)


GOLDEN = [
    [0.04248394258962118, -1.6266712246153174, 0.03609361112181969],
    [0.7779434690104567, 0.8172453418802452, 1.0636027603487377],
]


def test_both_learn_the_blocks_and_neither_what_is_the_other_s(decoder, latents):
    image, features = made(decoder, latents)
    names, values = zip(*decoder.named_parameters(), strict=True)
    reached = {}
    for kind, output in (("pixels", image), ("features", features)):
        weighed = (output * torch.randn_like(output)).sum()
        slopes = torch.autograd.grad(weighed, values, retain_graph=True, allow_unused=True)
        reached[kind] = {name for name, slope in zip(names, slopes, strict=True) if slope is not None and slope.any()}
    own = {"feature_token", "feature_norm.weight", "feature_norm.bias", "features.weight", "features.bias"}
    assert reached["features"] - reached["pixels"] == own
    assert {name.partition(".")[0] for name in reached["pixels"] - reached["features"]} == {"cnn", "mask_token"}


def test_a_mask_token_sees_the_latents_and_the_mask_tokens_before_it(decoder, latents):
    _, before = made(decoder, latents)
    decoder.positions.table.data[5] *= -3
    _, after = made(decoder, latents)
    assert torch.isclose(before, after).all(-1).all(0).tolist() == [True] * 5 + [False] * 11


def test_positions_are_resized_for_the_map_of_the_pixels_and_for_other_images(decoder, latents):
    image, features = made(decoder, latents, (16, 48))
    assert (image.shape, features.shape) == ((2, 3, 16, 48), (2, 12, 10))
    with pytest.raises(
        ValueError, match="image size must be a positive multiple of 8 in height and width, got 28 x 32"
    ):
        decoder(latents, (28, 32))
    assert decoder.eval()(latents, (28, 32)).shape == (2, 3, 28, 32)
