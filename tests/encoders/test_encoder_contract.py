"""What every encoder promises. A new YAML in configs/encoder is tested by being there."""

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
    build_encoder,
    known,
    names,
    one_of_each_class,
    preset,
    published_side,
    slow_but_one_of_each_class,
    unchecked,
)

from imtok.construct import arguments, construct
from imtok.signatures import PROVIDED

SIZE = (SIDE, SIDE)


def encode(encoder, image):
    return encoder(image).values


class Values(torch.nn.Module):
    """The latents as a tensor, which is what programs return."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, image):
        return encode(self.encoder, image)


@pytest.fixture(params=names("encoder"))
def name(request):
    return request.param


@pytest.fixture
def encoder(name):
    return build_encoder(name)


@pytest.fixture
def image():
    return torch.rand(2, 3, *SIZE) * 2 - 1


def test_the_published_size_keeps_its_shapes(name):
    side = published_side(name)
    with torch.device("meta"):
        dim = StubSpace.dim if name == "space" else 18  # the map itself
        encoder = construct(preset("encoder", name), provided=known(dim=dim, side=side))
        shape = (1, encoder.num_latents((side, side)), dim)
        assert encode(encoder.eval(), torch.empty(1, 3, side, side)).shape == shape


def test_a_preset_lists_every_argument(name):
    config = preset("encoder", name)
    module, _, cls = config["_target_"].rpartition(".")
    taken = arguments(getattr(importlib.import_module(module), cls))[0]
    assert set(config) - {"_target_"} <= set(taken)
    assert set(taken) - set(config) - PROVIDED["encoder"] <= OF_FILES


def test_num_latents_is_what_forward_returns(encoder, image):
    assert encode(encoder.eval(), image).shape == (2, encoder.num_latents(SIZE), DIM)


def test_a_size_of_another_shape_is_read_or_refused_with_the_rule(encoder):
    size = (SIDE // 2, SIDE)
    image = torch.zeros(1, 3, *size)
    if not reads(encoder, size):
        with pytest.raises(ValueError, match=rf"image size must be {SIDE} x {SIDE}.* got {size[0]} x {size[1]}"):
            encoder(image)
    else:
        assert encode(encoder, image).shape == (1, encoder.num_latents(size), DIM)


def test_a_size_that_does_not_fit_is_refused_with_the_rule(encoder):
    size = (SIZE[0], SIZE[1] + 1)
    rule = f"must be (a positive multiple of .*|{SIDE} x {SIDE}.*) got {size[0]} x {size[1]}"
    with pytest.raises(ValueError, match=rule):
        encoder.num_latents(size)
    with pytest.raises(ValueError, match=rule):
        encoder(torch.zeros(1, 3, *size))


def test_gradients_reach_every_parameter(encoder, image):
    wake(encoder)
    latents = encode(encoder, image)
    (latents * torch.randn_like(latents)).sum().backward()
    learning = [(key, value) for key, value in encoder.named_parameters() if value.requires_grad]  # a net may be frozen
    unreached = [key for key, value in learning if value.grad is None or not value.grad.any()]
    # A key's bias shifts all scores of a query alike, which softmax does not see: its gradient is rounding at most.
    # What stands for a missing token has none while none is missing, nor has what only decides which latents to keep.
    aside = ("missing", "halting", "predictor", "policy", "coarser")
    assert [key for key in unreached if not key.endswith("key.bias") and not key.startswith(aside)] == []


def test_latents_of_an_image_do_not_depend_on_its_batch(encoder, image):
    wake(encoder.double().eval())
    image = image.double()
    torch.testing.assert_close(encode(encoder, image)[1:], encode(encoder, image[1:]), rtol=1e-9, atol=1e-9)


def test_latents_depend_on_every_pixel(encoder, image):
    wake(encoder)
    image.requires_grad_()
    latents = encode(encoder, image)
    (latents * torch.randn_like(latents)).sum().backward()
    assert (image.grad.abs().sum(1) > 0).all()


@pytest.mark.parametrize("name", slow_but_one_of_each_class("encoder"))
def test_it_compiles_as_one_graph(encoder, image):
    encoder.eval()
    torch.compiler.reset()
    compiled = torch.compile(encoder, backend="eager", fullgraph=True)
    with torch.no_grad(), unchecked():
        torch.testing.assert_close(encode(compiled, image), encode(encoder, image))


@pytest.mark.parametrize("name", one_of_each_class("encoder"))
def test_a_program_of_it_takes_any_number_of_images(name, image):
    encoder = build_encoder(name).eval()
    five = torch.rand(5, 3, *SIZE) * 2 - 1
    with torch.no_grad(), unchecked():
        torch.testing.assert_close(as_program(Values(encoder), (image,))(five), encode(encoder, five))


def test_it_runs_in_bfloat16(encoder, image):
    wake(encoder.eval())
    with torch.no_grad():
        exact = encode(encoder, image)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = encode(encoder, image).float()
    assert (rounded - exact).norm() < 0.05 * exact.norm()


def reads(encoder, size):
    """Whether it takes images of this size; if not, ``num_latents`` says so by the rule."""
    try:
        return encoder.num_latents(size) > 0
    except ValueError as error:
        return f"image size must be {SIDE} x {SIDE}" not in str(error)
