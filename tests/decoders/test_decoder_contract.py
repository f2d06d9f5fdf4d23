"""What every decoder promises. A new YAML in configs/decoder is tested by being there."""

import importlib

import pytest
import torch
from encoders.contract import wake
from encoders.presets import (
    DIM,
    OF_FILES,
    SIDE,
    StubSpace,
    as_program,
    build_decoder,
    encoder_of,
    known,
    names,
    one_of_each_class,
    preset,
    published_side,
    slow_but_one_of_each_class,
    unchecked,
)

from imtok.construct import arguments, construct
from imtok.decoders.alitok import AliTokDecoder
from imtok.decoders.base import GenerativeDecoder
from imtok.signatures import PROVIDED

SIZE = (SIDE, SIDE)


@pytest.fixture(params=names("decoder"))
def name(request):
    return request.param


@pytest.fixture
def built(name):
    return build_decoder(name)


@pytest.fixture
def decoder(built):
    return built[0]


@pytest.fixture
def latents(built):
    return torch.randn(2, built[1], DIM)


def test_the_published_size_decodes_what_its_encoder_encodes(name):
    number, side, partner = 256, published_side(name), encoder_of(name)
    dim = StubSpace.dim if partner == "space" else 18  # the map itself
    with torch.device("meta"):
        if partner is not None:
            encoder = construct(preset("encoder", partner), provided=known(dim=dim, side=side))
            number = encoder.num_latents((side, side))
        decoder = construct(preset("decoder", name), provided=known(dim=dim, side=side, num_latents=number))
        if not isinstance(decoder, GenerativeDecoder):  # samples in many passes: shown at small size below
            assert decoder(torch.empty(1, number, dim), (side, side)).shape == (1, 3, side, side)


def test_a_preset_lists_every_argument(name):
    config = preset("decoder", name)
    module, _, cls = config["_target_"].rpartition(".")
    taken = arguments(getattr(importlib.import_module(module), cls))[0]
    assert set(config) - {"_target_"} <= set(taken)
    assert set(taken) - set(config) - PROVIDED["decoder"] <= OF_FILES


def test_it_fills_the_image(decoder, latents):
    assert decoder(latents, SIZE).shape == (2, 3, *SIZE)


def test_too_many_latents_and_other_sizes_are_refused(decoder, latents):
    decoder.eval()  # training may add redundant ones
    with pytest.raises(ValueError, match=f"latents must be .* got {latents.shape[1] + 1}"):
        decoder(torch.cat([latents, latents[:, :1]], 1), SIZE)
    with pytest.raises(
        ValueError, match=f"must be (a positive multiple of .*|{SIDE} x {SIDE}.*) got {SIDE + 1} x {SIDE}"
    ):
        decoder(latents, (SIZE[0] + 1, SIZE[1]))


def test_a_decoder_of_fixed_length_refuses_fewer_latents_and_masks(decoder, latents):
    if decoder.flexible:
        pytest.skip("it is of variable length")
    with pytest.raises(ValueError, match=f"latents must be {latents.shape[1]} .* got {latents.shape[1] - 1}"):
        decoder(latents[:, 1:], SIZE)
    with pytest.raises(ValueError, match="every latent is needed here"):
        decoder(latents, SIZE, keep=torch.ones(latents.shape[:2], dtype=torch.bool))


def test_latents_that_were_not_kept_carry_nothing(decoder, latents):
    """A prefix decodes like the whole with the rest masked, whatever stands there, in batches of mixed lengths."""
    if not decoder.flexible:
        pytest.skip("it is of fixed length")
    wake(decoder.double().eval())
    latents, number = latents.double(), latents.shape[1]
    lengths = [number - 1, max(1, number // 2)]
    keep = torch.arange(number) < torch.tensor(lengths)[:, None]
    mixed = decoder(latents, SIZE, keep)
    torch.testing.assert_close(decoder(torch.where(keep[..., None], latents, 9.0), SIZE, keep), mixed)
    for row, length in enumerate(lengths):
        alone = decoder(latents[row : row + 1, :length], SIZE)
        torch.testing.assert_close(alone, mixed[row : row + 1], rtol=1e-9, atol=1e-9)
    assert not torch.equal(mixed, decoder(latents, SIZE))


def test_last_layer_writes_the_pixels(decoder, latents):
    """It is a parameter; the image is linear in it; only a bias per channel, or a shortcut's colours, is added."""
    assert any(decoder.last_layer is parameter for parameter in decoder.parameters())
    if isinstance(decoder, GenerativeDecoder):
        return
    decoder.double()
    latents = latents.double()
    if not decoder.last_layer.any():  # it starts at zero
        wake(decoder)

    def decoded():
        image = decoder(latents, SIZE)
        return ((image + 1) / 2).logit() if isinstance(decoder, AliTokDecoder) else image  # before its sigmoid

    with torch.no_grad():
        image = decoded()
        decoder.last_layer.zero_()
        rest = decoded()
        # a convolution to colours; a linear head has a bias for each pixel of a patch
        to_colours = decoder.last_layer.ndim == 4 and decoder.last_layer.shape[0] == 3
        if to_colours and getattr(decoder, "shortcut", None) is None:
            assert torch.equal(rest, rest[:1, :, :1, :1].expand_as(rest))
        assert (image - rest).abs().flatten(1).amax(
            1
        ).min() > 1e-4  # nets that compute in metres begin with small steps
        decoder.last_layer.normal_()
        once = decoded() - rest
        decoder.last_layer.mul_(2)
        torch.testing.assert_close(decoded() - rest, 2 * once)


def test_gradients_reach_every_parameter_and_every_latent(name, decoder, latents):
    wake(decoder)
    latents.requires_grad_()
    if isinstance(decoder, GenerativeDecoder):
        generator = torch.Generator().manual_seed(0)
        image = torch.rand(2, 3, *SIZE) * 2 - 1
        losses = decoder.loss(image, latents, generator=generator)
        torch.stack([value * weight for value, weight in losses.values()]).sum().backward()
    else:
        image = decoder(latents, SIZE)
        (image * torch.randn_like(image)).sum().backward()
    unreached = [key for key, value in decoder.named_parameters() if value.grad is None]
    if not isinstance(decoder, GenerativeDecoder):
        unreached += [
            key for key, value in decoder.named_parameters() if value.grad is not None and not value.grad.any()
        ]
    # A key's bias shifts all scores of a query alike, which softmax does not see: its gradient is rounding at most.
    # What a missing latent becomes is in the graph (DDP waits for it), with no gradient while none is missing.
    # What makes VFMTok's features has none from the image.
    # A coarser map has none while images are read off the finest.
    # AliTok's prefix has patches of its own.
    apart = ("missing", "feature", "coarser", "prefix")
    assert [key for key in unreached if not key.endswith("key.bias") and not key.startswith(apart)] == []
    # Hita reads its causal trunk four positions early, so that it sees all latents but the last four.
    # DualToken's image and TokenFlow's are made of the last channels alone.
    seen = latents.grad[:, :-4] if name == "hita" else latents.grad
    assert seen[..., getattr(decoder, "first", 0) :].ne(0).all()


def test_an_image_does_not_depend_on_its_batch(decoder, latents):
    wake(decoder.double().eval())
    latents = latents.double()
    torch.testing.assert_close(decoder(latents, SIZE)[1:], decoder(latents[1:], SIZE), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", slow_but_one_of_each_class("decoder"))
def test_it_compiles_as_one_graph(decoder, latents):
    decoder.eval()
    torch.compiler.reset()
    compiled = torch.compile(decoder, backend="eager", fullgraph=True)
    with torch.no_grad(), unchecked():
        torch.testing.assert_close(compiled(latents, SIZE), decoder(latents, SIZE))


@pytest.mark.parametrize("name", one_of_each_class("decoder"))
def test_a_program_of_it_takes_any_number_of_images(name):
    decoder, number = build_decoder(name)
    three, five = torch.randn(3, number, DIM), torch.randn(5, number, DIM)
    with torch.no_grad(), unchecked():
        program = as_program(decoder.eval(), (three, SIZE))
        torch.testing.assert_close(program(five, SIZE), decoder(five, SIZE))


def test_it_runs_in_bfloat16(decoder, latents):
    wake(decoder.eval())
    with torch.no_grad():
        exact = decoder(latents, SIZE)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = decoder(latents, SIZE).float()
    assert (rounded - exact).norm() < 0.05 * exact.norm()
