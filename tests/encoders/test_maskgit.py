"""What MaskGIT's tokenizer does otherwise than VQGAN."""

import torch
import torch.nn.functional as F
from torch import nn

from imtok.decoders.maskgit import MaskGITVQGANDecoder
from imtok.encoders.maskgit import MaskGITVQGANEncoder

SMALL = {"channels": 8, "multipliers": (1, 2), "blocks": 1}


def test_residual_blocks_and_the_first_convolution_of_the_encoder_have_no_biases():
    encoder, decoder = MaskGITVQGANEncoder(4, **SMALL), MaskGITVQGANDecoder(4, **SMALL)
    biased = [
        name
        for part in (encoder, decoder)
        for name, layer in part.named_modules()
        if isinstance(layer, nn.Conv2d) and layer.bias is not None
    ]
    assert biased == ["net.conv_out", "net.conv_in", "net.upsamplers.0.conv", "net.conv_out"]


def test_vqgan_plus_halves_by_convolutions_that_look_one_place_beyond_the_end():
    """The padding "same" of a kernel of three at stride two: nothing before the map, a zero behind it."""
    encoder = MaskGITVQGANEncoder(4, **SMALL, downsample="padded_end")
    (halve,) = encoder.net.downsamplers
    image = torch.rand(1, 3, 8, 8) * 2 - 1
    features = encoder.net.levels[0](encoder.net.conv_in((image + 1) / 2))
    weight, bias = halve[1].weight, halve[1].bias
    halved = F.conv2d(F.pad(features, (0, 1, 0, 1)), weight, bias, stride=2)
    expected = encoder.net.conv_out(encoder.net.norm_out(encoder.net.middle(encoder.net.levels[1](halved))))
    torch.testing.assert_close(encoder(image).values, expected.flatten(2).mT)


def test_pixels_are_read_and_written_from_zero_to_one():
    """Beyond the edge of an image lies 0, which is black there and grey in the range from -1 to 1."""
    encoder, decoder = MaskGITVQGANEncoder(4, **SMALL), MaskGITVQGANDecoder(4, **SMALL)
    read = []
    encoder.net.register_forward_pre_hook(lambda _, given: read.append(given[0]))
    encoder(torch.full((1, 3, 4, 4), -1.0))
    assert not read[0].any()
    decoder.net.register_forward_hook(lambda *_: torch.full((1, 3, 4, 4), 0.75))
    assert torch.equal(decoder(torch.zeros(1, 4, 4), size=(4, 4)), torch.full((1, 3, 4, 4), 0.5))


def test_the_groups_of_its_norms_can_be_told():
    for part in (MaskGITVQGANEncoder(4, **SMALL, groups=2), MaskGITVQGANDecoder(4, **SMALL, groups=2)):
        assert {layer.num_groups for layer in part.modules() if isinstance(layer, nn.GroupNorm)} == {2}
