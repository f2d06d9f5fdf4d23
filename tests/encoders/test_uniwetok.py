"""UniWeTok's net, against what its public code computes and what follows from its parts."""

import math

import pytest
import torch

from imtok.decoders.uniwetok import UniWeTokDecoder
from imtok.encoders.uniwetok import UniWeTokEncoder
from imtok.nn.map_transformer import MapTransformer


def public_angles(rows, columns, width, scaled):
    """The loops that the public code's tables come down to: registers first, then positions row by row."""
    base = [1 / 10000.0 ** (2 * index / (width // 2)) for index in range(width // 4)]
    table = [[0.0] * (width // 2)] * 4
    for y in range(rows):
        for x in range(columns):
            table.append([(place + 1) * one for place in (scaled(x, columns), scaled(y, rows)) for one in base])
    return torch.tensor(table, dtype=torch.float64)


@pytest.mark.parametrize(
    ("stretch", "scaled"),
    [
        ("ends", lambda place, count: place * 7 / (count - 1) + 0.5),
        ("last", lambda place, count: (place + 0.5) * 7.5 / (count - 0.5)),
    ],
)
def test_positions_turn_by_the_angles_of_the_public_code(stretch, scaled):
    middle = MapTransformer(32, depth=1, heads=2, stretch=stretch)
    found = middle._rotation((3, 5), torch.zeros((), dtype=torch.float64))
    assert torch.allclose(found, public_angles(3, 5, 16, scaled), atol=1e-14)


def test_encoder_and_decoder_have_the_same_positions_at_8_x_8_and_only_there():
    ends, last = (MapTransformer(32, depth=1, heads=2, stretch=stretch) for stretch in ("ends", "last"))
    like = torch.zeros((), dtype=torch.float64)
    assert torch.allclose(ends._rotation((8, 8), like), last._rotation((8, 8), like))
    assert not torch.allclose(ends._rotation((4, 4), like), last._rotation((4, 4), like), atol=0.1)


def test_a_map_of_one_row_has_finite_positions():
    assert torch.isfinite(MapTransformer(32, depth=1, heads=2)(torch.randn(1, 32, 1, 4))).all()


def test_every_latent_depends_on_every_pixel_and_on_the_registers():
    encoder = UniWeTokEncoder(4, channels=16, multipliers=(1, 1, 1), blocks=1, attention_blocks=1, heads=2)
    image = torch.randn(1, 3, 64, 64, requires_grad=True)
    encoder(image).values[0, 0].sum().backward()
    assert image.grad.abs().sum(1).flatten().gt(0).all()
    assert encoder.middle.registers.grad.abs().sum() > 0


def test_hidden_width_is_two_thirds_of_eight_widths_in_steps_of_256():
    for channels, hidden in ((32, 256), (256, 768), (2048, 5632)):
        block = MapTransformer(channels, depth=1, heads=2).blocks.blocks[0]
        assert block.mlp.gate.out_features == hidden == 256 * math.ceil(int(8 * channels / 3) / 256)


def test_the_decoder_draws_noise_in_training_alone():
    decoder = UniWeTokDecoder(8, channels=16, multipliers=(1, 1), blocks=1, attention_blocks=1, heads=2)
    torch.nn.init.normal_(decoder.conv_in.weight)
    latents = torch.randn(1, 16, 8)
    assert not torch.equal(decoder(latents, (8, 8)), decoder(latents, (8, 8)))
    decoder.eval()
    assert torch.equal(decoder(latents, (8, 8)), decoder(latents, (8, 8)))


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"channels must be a multiple of 4 heads \(12\), got 32"):
        MapTransformer(32, depth=1, heads=3)
