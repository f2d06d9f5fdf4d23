"""Published sizes and receptive fields of the convolutional encoders."""

import pytest
import torch
from encoders.presets import preset, unchecked

from imtok.construct import construct
from imtok.encoders.cnn import CNNEncoder


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("name", "dim", "expected"),
    [
        ("cnn", 8, 29_300_232),
        ("cnn_llamagen_f8", 8, 28_561_288),
        ("cnn_taming", 256, 29_298_176 + 256 * 256 + 256),
        ("cnn_ibq", 256, 46_752_256 + 256 * 256 + 256),
        ("cnn_rq_vae", 256, 41_167_104),
        ("cnn_var", 32, 44_117_120),
        ("cnn_magvit2", 18, 49_751_442),
        ("cnn_magvit2_f8", 18, 48_422_162),
    ],
)
def test_presets_have_as_many_parameters_as_the_official_code(name, dim, expected):
    with torch.device("meta"):
        assert parameters(construct(preset("encoder", name), provided={"out_dim": dim})) == expected


@pytest.mark.parametrize(
    ("name", "codes", "expected"), [("cnn", 16384, 71_883_403), ("cnn_llamagen_f8", 16384, 70_109_835)]
)
def test_llamagen_tokenizers_have_their_published_size(name, codes, expected):
    with torch.device("meta"):
        parts = [
            construct(preset("encoder", name), provided={"out_dim": 8}),
            construct(preset("decoder", name), provided={"in_dim": 8}),
        ]
    assert sum(map(parameters, parts)) + codes * 8 == expected


@pytest.mark.parametrize("downsample", ["padded_end", "padded_both", "average"])
def test_a_token_sees_the_pixels_that_convolutions_carry_to_it(downsample):
    """Without norms, a token of a net with one residual block per level sees a window that starts where theory says."""
    encoder = CNNEncoder(
        4, channels=8, multipliers=(1, 1), blocks=1, attention="none", middle=(), downsample=downsample, kernel_out=1
    ).double()
    without_norms(encoder)
    image = torch.randn(1, 3, 40, 40, dtype=torch.float64, requires_grad=True)
    latents = encoder(image).values.unflatten(1, (20, 20))
    latents[0, 10, 12].sum().backward()
    seen = image.grad.abs().sum((0, 1)) > 0
    rows, columns = seen.any(1).nonzero().flatten(), seen.any(0).nonzero().flatten()
    # At half resolution two 3 x 3 convolutions reach 2 positions further, that is 4 pixels; at full resolution
    # three of them (the first and the block's two) reach 3 pixels; between them lies the downsampling.
    first = {"padded_end": 0, "padded_both": -1, "average": 0}[downsample]
    last = {"padded_end": 2, "padded_both": 1, "average": 1}[downsample]
    assert (rows[0], rows[-1]) == (20 - 4 + first - 3, 20 + 4 + last + 3)
    assert (columns[0], columns[-1]) == (24 - 4 + first - 3, 24 + 4 + last + 3)


def without_norms(module: torch.nn.Module) -> None:
    """Replace group norms, which look at the whole map, by the identity."""
    for name, child in module.named_children():
        if isinstance(child, torch.nn.GroupNorm):
            setattr(module, name, torch.nn.Identity())
        without_norms(child)


def test_an_even_last_kernel_is_refused():
    with pytest.raises(ValueError, match="kernel_out must be odd, got 2"):
        CNNEncoder(8, channels=8, multipliers=(1,), kernel_out=2)
    with pytest.raises(ValueError, match="latent_kernel must be odd, got 2"):
        CNNEncoder(8, channels=8, multipliers=(1,), latent_kernel=2)


@pytest.mark.parametrize(
    ("argument", "value"), [("attention", "highest"), ("downsample", "max"), ("middle", ["dense"])]
)
def test_an_unknown_choice_is_refused_by_name(argument, value):
    with unchecked(), pytest.raises(ValueError, match=r"must be .* got '(highest|max|dense)'"):
        CNNEncoder(8, channels=8, multipliers=(1, 1), **{argument: value})
