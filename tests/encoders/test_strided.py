"""AiT's nets: published sizes, an independent reference, and what their range of values means."""

import pytest
import torch
from encoders.presets import preset
from torch import nn

from imtok.construct import construct
from imtok.decoders.strided import StridedDecoder
from imtok.encoders.strided import StridedEncoder
from imtok.nn.convolution import ReLUBlock
from imtok.tokenizer import Tokenizer


@pytest.mark.parametrize(("name", "expected"), [("ait", (861_936, 1_123_457)), ("ait_depth", (3_320_560, 4_368_641))])
def test_presets_have_as_many_parameters_as_the_official_code(name, expected):
    known = {"out_dim": 512, "in_dim": 512, "image_channels": 1}
    with torch.device("meta"):
        parts = [construct(preset(group, name), provided=known) for group in ("encoder", "decoder")]
    assert tuple(sum(value.numel() for value in part.parameters()) for part in parts) == expected


def test_a_block_adds_three_convolutions_with_relu_between_them():
    block, features = ReLUBlock(4), torch.randn(2, 4, 6, 6)
    plain = nn.Sequential(block.conv1, nn.ReLU(), block.conv2, nn.ReLU(), block.conv3)
    torch.testing.assert_close(block(features), plain(features) + features)


def test_the_nets_compute_in_the_range_that_they_are_told():
    """Depth in metres: the nets in [-1, 1] with the first and last layer rescaled by hand are the same function."""
    metres = (0.0, 65.535)
    encoder, plain = (StridedEncoder(6, 4, 2, 1, given, 1) for given in (metres, (-1.0, 1.0)))
    decoder, wrote = (StridedDecoder(6, 4, 2, 1, given, 1) for given in (metres, (-1.0, 1.0)))
    plain.load_state_dict(encoder.state_dict())
    wrote.load_state_dict(decoder.state_dict())
    image = torch.rand(2, 1, 8, 12) * 2 - 1
    in_metres = (image + 1) / 2 * 65.535
    torch.testing.assert_close(encoder(image).values, plain(in_metres).values)
    latents = torch.randn(2, 6, 6)
    torch.testing.assert_close((decoder(latents, (8, 12)) + 1) / 2 * 65.535, wrote(latents, (8, 12)))


def test_every_layer_has_its_place():
    """Both nets, layer by layer from their weights, with plain functions."""
    encoder, decoder = StridedEncoder(6, 4, 2, 1, (-1.0, 1.0), 1), StridedDecoder(6, 4, 2, 1, (-1.0, 1.0), 1)
    image, latents = torch.rand(2, 1, 8, 12) * 2 - 1, torch.randn(2, 6, 6)
    halves, doubles = (list(one) for one in (encoder.halvings, decoder.doublings))
    features = encoder.blocks[0](halves[2](halves[0](image).relu()).relu())
    torch.testing.assert_close(encoder(image).values, encoder.conv_out(features).flatten(2).mT)
    features = decoder.conv_in[0](latents.mT.unflatten(2, (2, 3))).relu()
    features = doubles[2](doubles[0](decoder.blocks[0](features)).relu()).relu()
    torch.testing.assert_close(decoder(latents, (8, 12)), decoder.conv_out(features))


def test_a_tokenizer_of_both_reads_grey_maps_of_any_shape(tmp_path):
    tokenizer = Tokenizer.from_config(
        {
            "encoder": {"_target_": "imtok.encoders.strided.StridedEncoder", "channels": 4, "halvings": 3},
            "quantizer": {"_target_": "imtok.quantizers.ema_vq.EMAVQ", "dim": 8, "codebook_size": 16},
            "decoder": {"_target_": "imtok.decoders.strided.StridedDecoder", "channels": 4, "doublings": 3},
            "image_size": 32,
            "channels": 1,
        }
    )
    image = torch.rand(2, 1, 16, 40) * 2 - 1
    tokenizer.save(tmp_path / "saved")
    tokens = Tokenizer.load(tmp_path / "saved").encode(image)
    assert tokens.ids.shape == (2, 2 * 5, 1)
    assert torch.equal(tokenizer.decode(tokens, (16, 40)), tokenizer.eval()(image).image.clamp(-1, 1))


@pytest.mark.parametrize(("part", "name"), [(StridedEncoder, "halvings"), (StridedDecoder, "doublings")])
def test_a_net_without_a_halving_is_refused(part, name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        part(8, **{name: 0})
