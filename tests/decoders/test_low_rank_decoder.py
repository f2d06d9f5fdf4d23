"""A frozen autoencoder's decoder with small learned changes."""

import pytest
import torch
from torch.nn import functional as F

from imtok.decoders.low_rank import LowRankDecoder
from imtok.spaces.kl_vae import KLAutoencoder
from imtok.spaces.patches import Patches
from imtok.tokenizer import Tokenizer

SIZE = (8, 16)
SPACE = {"dim": 4, "channels": 32, "multipliers": [1, 1], "blocks": 1}


def decoder_of(**changes) -> LowRankDecoder:
    torch.manual_seed(0)
    space = KLAutoencoder(**SPACE).requires_grad_(False)
    return LowRankDecoder(**({"in_dim": 4, "space": space, "rank": 2} | changes))


def test_at_the_start_the_image_is_that_of_the_space():
    decoder, maps = decoder_of(), torch.randn(2, 4, 4, 8)
    assert torch.equal(decoder(maps.flatten(2).transpose(1, 2), SIZE), decoder.space.decode(maps))


def test_a_change_is_a_convolution_to_few_channels_and_one_from_there():
    decoder = decoder_of()
    with torch.no_grad():
        for up in decoder.up:
            up.normal_()
    for name, down, up in zip(decoder.names, decoder.down, decoder.up, strict=True):
        own, image = decoder.space.decoder.get_submodule(name).weight, torch.randn(1, down.shape[1], 5, 5)
        both = F.conv2d(image, own, padding=1) + F.conv2d(F.conv2d(image, down, padding=1), up[..., None, None])
        torch.testing.assert_close(
            F.conv2d(image, decoder.changed()[f"decoder.{name}.weight"], padding=1), both, rtol=1e-4, atol=1e-4
        )
    assert "conv_in" not in decoder.names
    assert decoder.names[-1] == "conv_out"
    assert len(decoder.names) == 2 * (2 + 2 * 2) + 2  # residual blocks of middle and levels, upsampling, the last one


def test_changes_learn_and_the_space_stays(tmp_path):
    parts = {
        "encoder": {"_target_": "imtok.encoders.space.SpaceEncoder"},
        "quantizer": {"_target_": "imtok.quantizers.fsq.FSQ", "levels": [5, 5, 5, 5]},
        "decoder": {"_target_": "imtok.decoders.low_rank.LowRankDecoder", "rank": 2},
        "space": {"_target_": "imtok.spaces.kl_vae.KLAutoencoder", **SPACE},
        "image_size": 16,
    }
    tokenizer, image = Tokenizer.from_config(parts), torch.rand(2, 3, 16, 16) * 2 - 1
    before = {name: value.clone() for name, value in tokenizer.space.state_dict().items()}
    optimizer = torch.optim.SGD([value for value in tokenizer.parameters() if value.requires_grad], 0.1)
    first = tokenizer(image).image
    for _ in range(2):
        tokenizer(image).image.square().mean().backward()
        optimizer.step()
    assert all(parameter.grad is not None for parameter in tokenizer.decoder.parameters())
    assert not torch.equal(tokenizer(image).image, first)
    assert all(torch.equal(before[name], value) for name, value in tokenizer.space.state_dict().items())
    tokenizer.eval().save(tmp_path / "saved")
    again, tokens = Tokenizer.load(tmp_path / "saved"), tokenizer.encode(image)
    assert torch.equal(again.decode(tokens, (16, 16)), tokenizer.decode(tokens, (16, 16)))
    assert sum("space." in name for name in again.state_dict()) == len(before)  # stored once


def test_what_cannot_be_is_refused():
    for changes, message in (
        ({"space": None}, "space must be a frozen autoencoder for this decoder, got none"),
        ({"space": Patches(2)}, "space must have a decoder whose convolutions can be changed, got Patches"),
        ({"rank": 0}, "rank must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            decoder_of(**changes)
    with pytest.raises(ValueError, match="every latent is needed here"):
        decoder_of()(torch.randn(1, 32, 4), SIZE, torch.ones(1, 32, dtype=torch.bool))
