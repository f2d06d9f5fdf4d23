"""What every decoder promises. A new YAML in configs/decoder is tested by being there."""

import importlib
import inspect

import pytest
import torch
from encoders.presets import names, preset, small, unchecked

from imtok.tokenizer import construct

SIZE = (32, 64)  # pixels; a multiple of every published factor, and not square
DIM = 6


@pytest.fixture(params=names("decoder"))
def name(request):
    return request.param


@pytest.fixture
def decoder(name):
    return construct(small("decoder", name), in_dim=DIM)


@pytest.fixture
def latents(name):
    """As many latents as the encoder of the same name makes of an image of ``SIZE``."""
    encoder = construct(small("encoder", name), out_dim=DIM)
    return torch.randn(2, encoder.num_latents(SIZE), DIM)


def test_the_published_size_decodes_what_its_encoder_encodes(name):
    with torch.device("meta"):
        encoder = construct(preset("encoder", name), out_dim=18)
        decoder = construct(preset("decoder", name), in_dim=18)
        for size in [(256, 256), (128, 192)]:
            assert decoder(torch.empty(1, encoder.num_latents(size), 18), size).shape == (1, 3, *size)


def test_a_preset_lists_every_argument(name):
    config = preset("decoder", name)
    module, _, cls = config["_target_"].rpartition(".")
    arguments = inspect.signature(getattr(importlib.import_module(module), cls)).parameters
    assert set(config) - {"_target_"} == set(arguments) - {"in_dim"}


def test_latents_that_do_not_fill_the_image_are_refused(decoder, latents):
    with pytest.raises(ValueError, match=f"latents must be {latents.shape[1]} .* got {latents.shape[1] - 1}"):
        decoder(latents[:, 1:], SIZE)
    with pytest.raises(ValueError, match="latents must be "):
        decoder(latents, (SIZE[0], 2 * SIZE[1]))
    with pytest.raises(ValueError, match=f"positive multiple of .* got {SIZE[0] + 1} x {SIZE[1]}"):
        decoder(latents, (SIZE[0] + 1, SIZE[1]))


def test_a_mask_is_refused(decoder, latents):
    with pytest.raises(ValueError, match="keep must be None"):
        decoder(latents, SIZE, keep=torch.ones(latents.shape[:2], dtype=torch.bool))


def test_last_layer_writes_the_pixels(decoder, latents):
    """It is a parameter; the image is linear in it; and nothing but a bias per channel is added to what it writes."""
    assert any(decoder.last_layer is parameter for parameter in decoder.parameters())
    decoder.double()
    latents = latents.double()
    with torch.no_grad():
        image = decoder(latents, SIZE)
        decoder.last_layer.zero_()
        rest = decoder(latents, SIZE)
        assert torch.equal(rest, rest[:1, :, :1, :1].expand_as(rest))
        assert (image - rest).abs().flatten(1).amax(1).min() > 0.01


def test_gradients_reach_every_parameter_and_every_latent(decoder, latents):
    latents.requires_grad_()
    image = decoder(latents, SIZE)
    (image * torch.randn_like(image)).sum().backward()
    unreached = [key for key, value in decoder.named_parameters() if value.grad is None or not value.grad.any()]
    # A key's bias shifts all scores of a query alike, which softmax does not see: its gradient is rounding at most.
    assert [key for key in unreached if not key.endswith("key.bias")] == []
    assert latents.grad.ne(0).all()


def test_an_image_does_not_depend_on_its_batch(decoder, latents):
    decoder.double().eval()
    latents = latents.double()
    torch.testing.assert_close(decoder(latents, SIZE)[1:], decoder(latents[1:], SIZE), rtol=1e-9, atol=1e-9)


def test_it_compiles_as_one_graph(decoder, latents):
    decoder.eval()
    torch.compiler.reset()
    compiled = torch.compile(decoder, backend="eager", fullgraph=True)
    with torch.no_grad(), unchecked():
        torch.testing.assert_close(compiled(latents, SIZE), decoder(latents, SIZE))


def test_it_runs_in_bfloat16(decoder, latents):
    decoder.eval()
    with torch.no_grad():
        exact = decoder(latents, SIZE)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = decoder(latents, SIZE).float()
    assert (rounded - exact).norm() < 0.05 * exact.norm()
