"""What decoders of the Q-Former family promise beyond the contract."""

import pytest
import torch

from imtok.decoders.qformer import QFormerDecoder

SMALL = {"num_latents": 8, "image_size": 32, "width": 16, "depth": 2, "heads": 2, "channels": 8}


def build(**changes) -> QFormerDecoder:
    multipliers = {"multipliers": (1, 1, 1), "blocks": 1}
    return QFormerDecoder(in_dim=4, **(SMALL | multipliers | changes)).double().eval()


def test_queries_start_as_the_first_latent():
    decoder, seen = build(), {}
    decoder.qformer.register_forward_hook(lambda _module, inputs, _output: seen.update(queries=inputs[0]))
    latents = torch.randn(2, 8, 4, dtype=torch.float64)
    decoder(latents, (32, 32))
    first = decoder.embed(decoder.norm_in(decoder.project(latents[:, 0])))
    torch.testing.assert_close(seen["queries"], first[:, None].expand(-1, 64, -1))


def test_what_was_dropped_carries_no_gradient():
    decoder = build(flexible=True)
    latents = torch.randn(2, 8, 4, dtype=torch.float64, requires_grad=True)
    keep = torch.arange(8) < torch.tensor([[3], [6]])
    decoder(latents, (32, 32), keep).square().sum().backward()
    assert torch.equal(latents.grad.abs().sum(-1) > 0, keep)


def test_an_image_without_any_latent_is_finite():
    decoder = build(flexible=True)
    keep = torch.zeros(1, 8, dtype=torch.bool)
    latents = torch.randn(1, 8, 4, dtype=torch.float64)
    image = decoder(latents, (32, 32), keep)
    assert image.isfinite().all()
    assert torch.equal(image, decoder(torch.randn_like(latents), (32, 32), keep))


def test_redundant_latents_reach_the_decoder_in_training_only():
    decoder = build(flexible=True, redundant=6)
    latents = torch.randn(1, 14, 4, dtype=torch.float64)
    assert decoder.train()(latents, (32, 32)).shape == (1, 3, 32, 32)
    with pytest.raises(ValueError, match="latents must be 8 or fewer for this decoder, got 14"):
        decoder.eval()(latents, (32, 32))


def test_order_matters_but_the_first():
    """Latents have positions: swapping two changes the image."""
    decoder = build()
    latents = torch.randn(1, 8, 4, dtype=torch.float64)
    swapped = latents[:, [0, 2, 1, *range(3, 8)]]
    assert not torch.allclose(decoder(latents, (32, 32)), decoder(swapped, (32, 32)))


def test_the_image_of_a_seeded_net_stays_what_it_was():
    """Guards the agreement with the official code, which was measured once."""
    decoder = build(flexible=True)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.3)
        latents = torch.linspace(-1, 1, 5 * 4, dtype=torch.float64).sin().reshape(1, 5, 4)
        found = decoder(latents, (32, 32))[0, 1, ::10, 7]
    torch.testing.assert_close(found, torch.tensor(GOLDEN, dtype=torch.float64), rtol=1e-6, atol=1e-9)


GOLDEN = [-0.6523626560191147, 0.3231567517247885, 0.3378078047817016, 0.3265334549115587]
