"""Latents that are the maps of a frozen autoencoder."""

import pytest
import torch

from imtok.encoders.space import SpaceEncoder
from imtok.nn.patches import from_patches
from imtok.spaces.patches import Patches
from imtok.tokenizer import Tokenizer

IMAGE = torch.rand(2, 3, 16, 32) * 2 - 1


@pytest.mark.parametrize("patch_size", [1, 2])
def test_latents_are_the_map_and_nothing_else(patch_size):
    encoder = SpaceEncoder(12 * patch_size**2, Patches(factor=2), patch_size)
    latents = encoder(IMAGE).values
    assert latents.shape[1] == encoder.num_latents((16, 32)) == 128 // patch_size**2
    assert torch.equal(from_patches(latents, (8 // patch_size, 16 // patch_size), patch_size), Patches(2).encode(IMAGE))
    assert list(encoder.parameters()) == []


def test_layers_learn_and_the_space_does_not():
    space = {"dim": 4, "channels": 32, "multipliers": [1, 1], "blocks": 1}
    encoder = {"_target_": "imtok.encoders.space.SpaceEncoder", "patch_size": 2, "layers": ["residual"], "channels": 32}
    parts = {
        "encoder": encoder,
        "quantizer": {"_target_": "imtok.quantizers.fsq.FSQ", "levels": [5, 5, 5]},
        "decoder": {"_target_": "imtok.decoders.rectifier.Rectifier", "patch_size": 2, "channels": 32},
        "space": {"_target_": "imtok.spaces.kl_vae.KLAutoencoder", **space},
        "image_size": 16,
    }
    tokenizer = Tokenizer.from_config(parts)
    tokens = tokenizer.encode(IMAGE)
    assert tokens.ids.shape == (2, 32, 1)
    image = tokenizer(IMAGE).image
    assert torch.equal(tokenizer.eval().decode(tokens, (16, 32)), image.clamp(-1, 1))
    with torch.no_grad():
        tokenizer.decoder.conv_out.weight.normal_()  # it is zero at the start, and lets no gradient by
    tokenizer(IMAGE).image.square().mean().backward()
    assert all(parameter.grad is not None for parameter in tokenizer.encoder.layers.parameters())
    assert all(parameter.grad is None for parameter in tokenizer.space.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"space": None}, "space must be a frozen autoencoder for this encoder, got none; give space=kl_f16c16"),
        ({"out_dim": 8}, r"quantizer.dim must be 12 \(12 channels of the space times 1 positions\), got 8"),
        ({"patch_size": 0}, "patch_size must be at least 1, got 0"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SpaceEncoder(**({"out_dim": 12, "space": Patches(factor=2)} | arguments))


def test_images_that_are_no_multiple_of_a_latent_are_refused():
    encoder = SpaceEncoder(48, Patches(factor=2), 2)
    for call in (lambda: encoder.num_latents((16, 30)), lambda: encoder(IMAGE[..., :30])):
        with pytest.raises(ValueError, match="image size must be a positive multiple of 4"):
            call()
