"""Published sizes of the convolutional decoders, and how far a latent reaches."""

import pytest
import torch
from encoders.presets import preset, unchecked

from imtok.construct import construct
from imtok.decoders.cnn import CNNDecoder


@pytest.mark.parametrize(
    ("name", "dim", "expected"),
    [
        ("cnn", 8, 42_452_099),
        ("cnn_llamagen_f8", 8, 41_417_475),
        ("cnn_taming", 256, 42_449_795 + 256 * 256 + 256),
        ("cnn_ibq", 256, 59_903_875 + 256 * 256 + 256),
        ("cnn_magvit2", 18, 65_376_387),
        ("cnn_magvit2_f8", 18, 63_599_491),
    ],
)
def test_presets_have_as_many_parameters_as_the_official_code(name, dim, expected):
    with torch.device("meta"):
        decoder = construct(preset("decoder", name), provided={"in_dim": dim})
    assert sum(parameter.numel() for parameter in decoder.parameters()) == expected


def without_norms(module: torch.nn.Module) -> None:
    """Replace plain group norms, which look at the whole map, by the identity."""
    for name, child in module.named_children():
        if isinstance(child, torch.nn.GroupNorm):
            setattr(module, name, torch.nn.Identity())
        without_norms(child)


def reached(adaptive_norm: str) -> torch.Tensor:
    """Pixels that change with the latent in row 5 and column 6 of 12 x 16, at 2 pixels per latent."""
    decoder = CNNDecoder(
        4, channels=8, multipliers=(1, 1), blocks=1, attention="none", middle=(), adaptive_norm=adaptive_norm
    ).double()
    without_norms(decoder)
    latents = torch.randn(1, 12 * 16, 4, dtype=torch.float64)
    changed = latents.clone()
    changed[0, 5 * 16 + 6] += 1
    return (decoder(changed, (24, 32)) - decoder(latents, (24, 32))).abs().sum((0, 1)) > 1e-12


def test_a_latent_reaches_the_pixels_around_its_own():
    pixels = reached("none")
    rows, columns = pixels.any(1).nonzero().flatten(), pixels.any(0).nonzero().flatten()
    # Three 3 x 3 convolutions reach 3 latents = 6 pixels further; after upsampling four more reach 4 pixels.
    assert (rows[0], rows[-1]) == (10 - 10, 11 + 10)
    assert (columns[0], columns[-1]) == (12 - 10, 13 + 10)


def test_with_adaptive_norm_a_latent_reaches_every_pixel():
    assert reached("levels").all()


@pytest.mark.parametrize("argument", ["attention", "upsample", "adaptive_norm"])
def test_an_unknown_choice_is_refused_by_name(argument):
    with unchecked(), pytest.raises(ValueError, match=f"{argument} must be (one of|lowest, none) .*got 'linear'"):
        CNNDecoder(8, channels=8, multipliers=(1, 1), **{argument: "linear"})


def test_a_decoder_without_levels_is_refused():
    with pytest.raises(ValueError, match="levels and blocks must be at least 1, got 0 and 3"):
        CNNDecoder(8, multipliers=())
