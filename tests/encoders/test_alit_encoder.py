"""ALIT's rollouts: what changes, what does not, and what is taken out of them."""

import pytest
import torch
from encoders.alit import SIZE, SPACE
from encoders.waves import wave_image, waves

from imtok.decoders.alit import ALITDecoder
from imtok.encoders.alit import ALITEncoder
from imtok.spaces.vqgan import MAGEVQGAN


def make(rollouts=3):
    space = waves(MAGEVQGAN(**SPACE))
    return waves(ALITEncoder(4, 32, space, latents=2, rollouts=rollouts, width=24, depth=1, heads=2))


@pytest.mark.parametrize(
    ("width", "depth", "heads", "millions"),
    [(512, 8, 8, 52.8), (1024, 8, 8, 207.5), (768, 12, 12, 174.1), (1024, 16, 16, 409.0)],
)
def test_the_parameters_are_those_of_the_public_code(width, depth, heads, millions):
    """Tiny, small, base and semi-large, without the frozen net, whose decoder and codes ours repeats."""
    with torch.device("meta"):
        encoder = ALITEncoder(12, 256, MAGEVQGAN(), width=width, depth=depth, heads=heads)
        decoder = ALITDecoder(12, 256, 256, width=width, depth=depth, heads=heads, flexible=True)
    number = sum(p.numel() for p in encoder.parameters())
    number += sum(p.numel() for name, p in decoder.named_parameters() if not name.startswith(("pixels", "codebook")))
    assert round(number / 1e6, 1) == millions


def test_the_numbers_are_those_of_the_net_that_was_compared():
    """By hand, with the public module and the same weights."""
    encoder = make()
    decoder = ALITDecoder(4, 32, 6, width=24, depth=1, heads=2, flexible=True, **SPACE)
    with torch.no_grad():
        latents = encoder(wave_image()).values
        found = [
            latents[0, 0, :2],
            encoder(wave_image(), 4).values[0, 3, :2],
            waves(decoder).logits(latents, SIZE)[0, 5, :2],
        ]
    expected = [
        [-1.1703400965542006, -0.27492756203477825],
        [0.3237257933994184, 1.1753952147581965],
        [-0.09678368088979881, 0.15709046726779297],
    ]
    torch.testing.assert_close(torch.stack(found), torch.tensor(expected, dtype=torch.float64), rtol=1e-11, atol=1e-11)


def test_more_rollouts_change_the_latents_of_earlier_ones():
    """The first latents of a longer code are not the shorter code: it is no prefix code."""
    encoder, image = make(), wave_image()
    with torch.no_grad():
        short, long = encoder(image, length=2).values, encoder(image, length=4).values
    assert short.shape == (1, 2, 4)
    assert (long[:, :2] - short).abs().max() > 1e-3


def test_later_rollouts_cannot_reach_a_shorter_code():
    """Their parameters have no gradient from it, and a net with fewer rollouts makes the same of an image."""
    encoder, fewer = make(), make(rollouts=2)
    fewer.load_state_dict(encoder.state_dict() | {"times": encoder.times[:2]})
    with torch.no_grad():
        assert torch.equal(encoder(wave_image(), length=4).values, fewer(wave_image()).values)
    encoder(wave_image(), length=4).values.sum().backward()
    assert encoder.times.grad[1].any()
    assert not encoder.times.grad[2].any()


def test_a_length_that_is_no_whole_number_of_rollouts_is_refused():
    for length in (1, 5, 8):
        with pytest.raises(ValueError, match=f"length must be a multiple of 2 up to 6, .* got {length}"):
            make()(wave_image(), length=length)


def test_what_is_taken_out_is_replaced_by_a_learned_vector_at_its_position():
    encoder = make()
    with torch.no_grad():
        tokens = encoder.trunk(encoder.start(wave_image()))
        halted = torch.arange(64)[None] % 3 == 0
        changed = tokens.clone()
        changed[:, 1:65][halted] = 7.0
        grown = encoder.grow(tokens, SIZE, 1, halted)
        assert torch.equal(grown, encoder.grow(changed, SIZE, 1, halted))  # nothing of it is left
        by_hand = tokens.clone()
        by_hand[:, 1:65][halted] = (encoder.missing + encoder.positions.table)[halted[0]]
        torch.testing.assert_close(grown, encoder.grow(by_hand, SIZE, 1))
        assert not torch.allclose(grown[:, 65:], encoder.trunk(encoder.grow(tokens, SIZE, 1))[:, 65:])


def test_an_encoder_without_a_space_or_without_channels_for_pixels_is_refused():
    with pytest.raises(ValueError, match="space must be a frozen autoencoder"):
        ALITEncoder(4, 32, None)
    with pytest.raises(ValueError, match="width must be more than the 8 channels of the space, got 8"):
        ALITEncoder(4, 32, MAGEVQGAN(**SPACE), width=8)
