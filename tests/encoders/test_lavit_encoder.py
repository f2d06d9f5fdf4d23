"""Patches with the best chances are kept, as many as are expected or asked for."""

import pytest
import torch

from imtok.encoders.lavit import SelectingEncoder
from imtok.encoders.pretrained_vit import PretrainedViTEncoder


def encoder_of(**changes):
    torch.manual_seed(0)
    settings = {"patch_size": 8, "factor": 8, "width": 16, "depth": 2, "heads": 2, "layers": [1], "start": "xavier"}
    net = PretrainedViTEncoder(None, 32, **(settings | {"train": "none"}))
    encoder = SelectingEncoder(6, net, **({"depth": 1, "heads": 2, "mlp_ratio": 2.0} | changes))
    for value in encoder.selector.parameters():
        torch.nn.init.normal_(value, std=0.6)  # chances of their own for each patch
    return encoder.eval()


def images(number=4):
    return torch.rand(number, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("bias", [-4.0, -2.0, -1.0])
def test_as_many_patches_as_are_expected_are_kept_those_with_the_best_chances(bias):
    encoder, image = encoder_of(), images()
    with torch.no_grad():
        encoder.selector.score[-1].bias[0] = bias
        latents = encoder(image)
        features = encoder.net(image).values
        chances = encoder.selector(features)[..., 0]
        merged = encoder.project(encoder.merger(features, latents.keep.float()))
    assert latents.keep.sum(1).tolist() == chances.exp().sum(1).round().int().clamp(1).tolist()
    assert 0 < latents.keep.sum() < 64
    for row in range(4):
        others = chances[row, ~latents.keep[row]]
        assert not len(others) or chances[row, latents.keep[row]].min() >= others.max()
    torch.testing.assert_close(latents.values, merged)


def test_a_length_takes_the_patches_with_the_best_chances():
    encoder, image = encoder_of(), images()
    with torch.no_grad():
        chances = encoder.selector(encoder.net(image).values)[..., 0]
        for length in (1, 5, 16):
            latents = encoder(image, length)
            assert latents.values.shape == (4, length, 6)
            assert latents.keep is None
            kept = torch.zeros(4, 16)
            for row in range(4):
                kept[row, chances[row].argsort(descending=True)[:length]] = 1
            expected = encoder.project(encoder.merger(encoder.net(image).values, kept))
            torch.testing.assert_close(latents.values[2], expected[2, kept[2] > 0])
    for length in (0, 17):
        with pytest.raises(ValueError, match=rf"length must lie in \[1, 16\] latents, got {length}"):
            encoder(image, length)


def test_evaluation_is_the_same_each_time_and_training_draws():
    encoder, image = encoder_of(), images()
    assert torch.equal(encoder(image).keep, encoder(image).keep)
    encoder.train()
    assert not torch.equal(encoder(image).keep, encoder(image).keep)
    assert not encoder.net.net.training


def test_a_net_that_maps_its_features_is_refused():
    with pytest.raises(ValueError, match=r"net.out_dim must be null"):
        SelectingEncoder(6, PretrainedViTEncoder(6, 32, patch_size=8, factor=8, width=16, depth=1, heads=2))
