"""What ELM's binary autoencoder does otherwise than VQGAN."""

import torch

from imtok.decoders.elm import ELMDecoder
from imtok.encoders.elm import ELMEncoder
from imtok.options import option
from imtok.quantizers.binary import Binary


def test_a_token_becomes_the_normed_sum_of_the_vectors_of_its_bits():
    decoder = ELMDecoder(4, channels=8, multipliers=(1,), blocks=1, latent_channels=8)
    bits = torch.tensor([1.0, 0.0, 1.0, 0.0])
    vectors, norm = decoder.project
    found = decoder.project(bits[None, :, None, None].expand(1, 4, 2, 2))
    total = (vectors.weight[:, 0] + vectors.weight[:, 2])[None]
    torch.testing.assert_close(found, norm(total.expand(1, 8, 2, 2)))
    assert vectors.bias is None


def test_no_activation_stands_before_the_last_convolution():
    for part in (ELMEncoder(4, 8, (1,), 1, latent_channels=8), ELMDecoder(4, 8, (1,), 1, latent_channels=8)):
        assert isinstance(part.norm_out, torch.nn.GroupNorm)
        assert part.norm_out.num_channels == 8


def test_bits_are_drawn_by_their_odds_in_training():
    quantizer = Binary([2], temperature=option("quantizer", "elm_2")["temperature"])
    latents = torch.full((1, 20000, 2), 0.7)
    share = quantizer(latents, generator=torch.Generator().manual_seed(0)).latents.mean()
    torch.testing.assert_close(share, torch.tensor(0.7).sigmoid(), atol=0.01, rtol=0)


def test_two_three_or_four_sub_codes_are_the_same_24_bits():
    assert [sum(option("quantizer", f"elm_{count}")["slot_bits"]) for count in (2, 3, 4)] == [24, 24, 24]
    assert [len(option("quantizer", f"elm_{count}")["slot_bits"]) for count in (2, 3, 4)] == [2, 3, 4]
