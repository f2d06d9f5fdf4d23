"""Causal registers: who sees whom, prefixes, and what each published encoder does to its latents."""

import pytest
import torch
from encoders.contract import wake
from encoders.filled import filled, wave
from encoders.presets import SIDE, build_encoder, known, unchecked
from torch import nn

from imtok.encoders.registers import RegisterEncoder
from imtok.nn.transformer import BlockStyle

NAMES = ("flextok_d12", "semanticist")


def small(**changes):
    settings = {"latents": 6, "width": 16, "depth": 2, "heads": 2, "patch_size": 8, "reads": "pixels"}
    return RegisterEncoder(4, 32, **(settings | changes))


@pytest.fixture
def image():
    return torch.rand(2, 3, SIDE, SIDE, dtype=torch.float64) * 2 - 1


@pytest.mark.parametrize("name", NAMES)
def test_the_first_latents_are_the_same_however_many_are_made(name, image):
    encoder = build_encoder(name).double().eval()
    wake(encoder)
    every = encoder(image).values
    for length in (1, 3):
        torch.testing.assert_close(encoder(image, length).values, every[:, :length], rtol=1e-12, atol=1e-12)


def test_without_the_causal_mask_the_first_latents_would_change():
    """The negative control of the test above."""
    encoder = small().double().eval()
    nn.init.normal_(encoder.project.weight)
    encoder.visible.fill_(True)
    image = wave(1, 3, 32, 32)
    assert (encoder(image, 3).values - encoder(image).values[:, :3]).abs().max() > 1e-6


@pytest.mark.parametrize("table", ["sincos", "learned"])
def test_a_register_learns_from_patches_and_from_registers_up_to_itself_alone(table):
    """Exactly zero gradients where the mask forbids it; patches see no register."""
    encoder = small(table=table, class_tokens=1 if table == "learned" else 0).double()
    nn.init.normal_(encoder.project.weight)
    sequences = []

    def watch(module, inputs):
        sequences.append(inputs[0])
        inputs[0].retain_grad()

    encoder.trunk.register_forward_pre_hook(watch)
    seen = len(encoder.visible) - 6
    for index in range(6):
        encoder.zero_grad()
        encoder(wave(1, 3, 32, 32)).values[0, index].sum().backward()
        reached = sequences[-1].grad[0].abs().sum(-1) > 0
        assert reached[: seen + index + 1].all()
        assert not reached[seen + index + 1 :].any()
    outputs = encoder.trunk(sequences[-1].detach().requires_grad_(), encoder.visible)
    sequence = sequences[-1]
    gradient = torch.autograd.grad(outputs[0, :seen].sum(), sequence)[0][0].abs().sum(-1)
    assert (gradient[:seen] > 0).all()
    assert not gradient[seen:].any()


def test_flextok_starts_with_latents_of_zero_and_semanticist_with_standardised_ones(image):
    assert not build_encoder("flextok_d12")(image.float()).values.any()
    latents = build_encoder("semanticist").double()(image).values
    torch.testing.assert_close(latents.mean(-1), torch.zeros_like(latents[..., 0]))
    torch.testing.assert_close(latents.std(-1), torch.ones_like(latents[..., 0]))


def test_pixels_are_converted_to_the_range_that_the_net_was_trained_on():
    encoder, other = (filled(small(value_range=values)) for values in ((0.0, 1.0), (-1.0, 1.0)))
    image = wave(1, 3, 32, 32)
    torch.testing.assert_close(encoder(image).values, other((image + 1) / 2).values)
    assert not torch.allclose(encoder(image).values, other(image).values)


def test_another_size_is_read_where_positions_are_interpolated():
    encoder = filled(small(positions="interpolated"))
    image = wave(1, 3, 32, 48)
    assert encoder(image).values.shape == (1, 6, 4)
    torch.testing.assert_close(encoder(image, 2).values, encoder(image).values[:, :2])
    with pytest.raises(ValueError, match=r"image size must be 32 x 32, .* got 32 x 48"):
        small()(image.float())


def test_a_smaller_image_is_read_where_positions_are_cropped():
    encoder = filled(small(positions="cropped"))
    image = wave(1, 3, 16, 32)
    assert encoder(image).values.shape == (1, 6, 4)
    assert not torch.allclose(encoder(image).values, filled(small(positions="interpolated"))(image).values)
    with (
        unchecked(),
        pytest.raises(ValueError, match="positions must be one of fixed, cropped, interpolated, got 'cut'"),
    ):
        small(positions="cut")


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match=r"length must lie in \[1, 6\] latents, got 7"):
        small()(torch.zeros(1, 3, 32, 32), 7)
    with pytest.raises(ValueError, match="reads must be 'pixels' where there is no space, got 'space'"):
        small(reads="space")
    with unchecked(), pytest.raises(ValueError, match="table must be one of sincos, learned, got 'rotary'"):
        small(table="rotary")
    with pytest.raises(ValueError, match="latents must be at least 1, got 0"):
        small(latents=0)


def test_the_space_is_asked_for_a_map_and_belongs_to_the_tokenizer():
    space = known()["space"]
    encoder = RegisterEncoder(4, SIDE, space, latents=3, width=16, depth=1, heads=2)
    assert not [name for name, _ in encoder.named_parameters() if "space" in name]
    assert encoder.factor == 16


FLEXTOK = BlockStyle("layer_plain", 1e-5, "swiglu", 8 / 3, False, "layer_plain", "mup")
GOLDEN = {
    "flextok": ({"style": FLEXTOK}, [1.06201345436207, -1.34356915981437, -0.31445710682897, -0.37871635034545]),
    "semanticist": (
        {
            "style": BlockStyle(eps=1e-6),
            "table": "learned",
            "class_tokens": 1,
            "latent_norm": "standard",
            "value_range": (0.0, 1.0),
        },
        [1.33644887015155, -0.0902936873545, -0.03527047742602, -0.13182656571284],
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_numbers_of_the_nets_that_matched_the_official_ones(name):
    settings, golden = GOLDEN[name]
    latents = filled(small(**settings))(wave(1, 3, 32, 32)).values
    assert latents.flatten()[[0, 7, 13, 23]].tolist() == pytest.approx(golden, rel=1e-9)
