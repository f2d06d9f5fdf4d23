"""A latent that is left out is zero in its place."""

import torch

from imtok.decoders.alto import ALToDecoder


def decoder_of(**changes):
    torch.manual_seed(0)
    settings = {"patch_size": 8, "width": 32, "depth": 2, "heads": 2, "flexible": True, "start": "xavier"}
    return ALToDecoder(6, 32, 8, **(settings | changes))


def test_the_first_few_and_a_mask_make_the_same_image_bit_for_bit():
    decoder, latents = decoder_of(), torch.randn(2, 8, 6)
    for length in (1, 4, 8):
        keep = (torch.arange(8) < length).expand(2, -1)
        image = decoder(latents[:, :length], (32, 32))
        assert torch.equal(decoder(latents, (32, 32), keep), image)
        assert torch.equal(decoder(latents * keep[..., None], (32, 32)), image)


def test_what_a_left_out_latent_would_be_worth_has_a_gradient():
    decoder, latents = decoder_of(), torch.randn(1, 8, 6)
    present = (torch.arange(8)[None] < 3).float().requires_grad_()
    decoder(latents * present[..., None], (32, 32)).square().sum().backward()
    assert (present.grad.abs() > 0).all()
