"""Instella's encoder and decoder: any size, the published number of parameters, golden numbers."""

import pytest
import torch
from encoders.waves import wave_image, waves

from imtok.decoders.instella import InstellaDecoder
from imtok.encoders.instella import InstellaEncoder

SMALL = {"patch_size": 4, "width": 24, "heads": 2}


def test_the_parameters_are_those_of_the_paper():
    """427.8 million, with the linear maps to and from the bits."""
    with torch.device("meta"):
        parts = InstellaEncoder(64, 256), InstellaDecoder(64, 128, 256)
    assert [sum(p.numel() for p in part.parameters()) for part in parts] == [119_904_832, 307_849_728]


@pytest.mark.parametrize(
    ("rotary", "latents", "image"),
    [
        ("pairs", [-0.08145766545059, -0.05041776480485], [-0.56798095938559, -0.65431663958083]),
        ("published", [-0.08117987409906, -0.05051224383856], [-0.56787942062153, -0.65422690676933]),
    ],
)
def test_the_numbers_are_those_of_the_net_that_was_compared(rotary, latents, image):
    """By hand, with the public modules and the same weights ("published"); "pairs" differs in rotations alone."""
    encoder = waves(InstellaEncoder(4, 32, latents=3, depth=2, coarse_depth=1, rotary=rotary, **SMALL))
    decoder = waves(InstellaDecoder(4, 3, 32, latent_width=8, coarse_depth=1, depth=2, rotary=rotary, **SMALL))
    with torch.no_grad():
        found = encoder(wave_image()).values
        decoded = decoder((found > 0).double(), (32, 32))
    expected = torch.tensor([latents, image], dtype=torch.float64)
    torch.testing.assert_close(torch.stack([found[0, 0, :2], decoded.flatten()[:2]]), expected, rtol=1e-11, atol=1e-11)


def test_an_image_of_any_size_becomes_as_many_latents():
    encoder = InstellaEncoder(4, 32, latents=3, depth=1, coarse_depth=1, **SMALL)
    decoder = InstellaDecoder(4, 3, 32, latent_width=8, coarse_depth=1, depth=1, **SMALL)
    for size in ((32, 32), (16, 64), (8, 8)):
        latents = encoder(torch.zeros(1, 3, *size)).values
        assert latents.shape == (1, 3, 4)
        assert decoder(latents, size).shape == (1, 3, *size)


def test_other_sizes_are_seen_at_the_coordinates_of_the_trained_one_or_beyond():
    """At the trained size both ways are the same."""
    nets = [
        waves(InstellaEncoder(4, 32, latents=3, depth=1, coarse_depth=1, positions=positions, **SMALL))
        for positions in ("interpolated", "extrapolated")
    ]
    with torch.no_grad():
        same = [net(wave_image()).values for net in nets]
        larger = [net(wave_image().repeat(1, 1, 2, 1)).values for net in nets]
    assert torch.equal(same[0], same[1])
    assert not torch.allclose(larger[0], larger[1], rtol=1e-6)


def test_latents_and_patches_see_each_other_from_the_first_block():
    """Without blocks at full resolution patches are halved before latents have seen them: they still reach them."""
    encoder = waves(InstellaEncoder(4, 32, latents=3, depth=1, coarse_depth=1, **SMALL))
    image = wave_image().requires_grad_()
    encoder(image).values[0, 0].sum().backward()
    assert image.grad.ne(0).all()
