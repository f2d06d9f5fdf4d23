"""What encoders of the Q-Former family promise: sizes, order of queries, what redundant latents are."""

import pytest
import torch
from encoders.presets import preset

from imtok.construct import construct
from imtok.encoders.qformer import QFormerEncoder

SIZES = {
    "small": {"width": 512, "depth": 6, "heads": 8},
    "base": {"width": 768, "depth": 12, "heads": 12},
    "large": {"width": 1024, "depth": 24, "heads": 16},
    "xl": {"width": 1280, "depth": 36, "heads": 20},
    "xxl": {"width": 1536, "depth": 48, "heads": 24},
}
SMALL = {"image_size": 32, "width": 16, "depth": 1, "heads": 2, "channels": 8, "multipliers": (1, 1, 1)}


def count(group: str, name: str, **changes) -> int:
    provided = {"out_dim": 8, "in_dim": 8, "num_latents": 256, "image_size": 256}
    with torch.device("meta"):
        module = construct(preset(group, name) | changes, provided=provided)
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("encoder", "decoder", "expected"),
    [
        ("small", "small", 129_252_619),
        ("small", "base", 218_236_939),
        ("base", "large", 597_510_923),
        ("xl", "xxl", 2_842_052_875),
    ],
)
def test_gigatok_has_its_published_size_without_the_alignment_mlp(encoder, decoder, expected):
    parts = count("encoder", "gigatok", **SIZES[encoder]), count("decoder", "gigatok", **SIZES[decoder])
    assert sum(parts) + 16384 * 8 == expected


def test_retok_adds_two_tables_of_224_positions():
    for group in ("encoder", "decoder"):
        assert count(group, "retok") - count(group, "gigatok") == 224 * 512


def build(**changes) -> QFormerEncoder:
    return QFormerEncoder(out_dim=4, **(SMALL | {"latents": 8} | changes)).double().eval()


def test_redundant_latents_come_last_in_training_and_never_in_evaluation():
    encoder = build(redundant=6)
    image = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        evaluated, trained = encoder(image).values, encoder.train()(image).values
    assert (evaluated.shape[1], trained.shape[1], encoder.num_latents((32, 32))) == (8, 14, 8)
    assert torch.equal(trained[:, :8], evaluated)


def test_the_first_redundant_query_starts_as_the_latent_that_it_repeats():
    encoder = build(redundant=6).train()
    encoder.qformer = PassQueries()
    latents = encoder(torch.rand(1, 3, 32, 32, dtype=torch.float64)).values
    torch.testing.assert_close(latents[:, 8:], latents[:, 2:8])


class PassQueries(torch.nn.Module):
    def forward(self, queries, *_):
        return queries


def test_latents_see_the_redundant_ones():
    """So that these must be computed in evaluation too: without them the first 8 are others."""
    encoder, plain = build(redundant=6), build()
    weights = encoder.state_dict()
    weights["latent_positions"] = weights["latent_positions"][:8]
    plain.load_state_dict(weights)
    image = torch.rand(1, 3, 32, 32, dtype=torch.float64)
    assert not torch.allclose(encoder(image).values, plain(image).values)


def test_fewer_queries_give_other_latents():
    """The negative of prefix consistency: queries see one another in both directions."""
    more, fewer = build(), build(latents=4)
    weights = more.state_dict()
    weights["latent_positions"] = weights["latent_positions"][:4]
    fewer.load_state_dict(weights)
    image = torch.rand(1, 3, 32, 32, dtype=torch.float64)
    assert not torch.allclose(fewer(image).values, more(image).values[:, :4], rtol=1e-3)


def test_positions_can_be_resized_where_that_is_asked_for():
    image = torch.rand(1, 3, 64, 32, dtype=torch.float64)
    assert build(positions="interpolated")(image).values.shape == (1, 8, 4)
    with pytest.raises(ValueError, match=r"image size must be 32 x 32, .* got 64 x 32"):
        build()(image)


def test_more_redundant_latents_than_latents_are_refused():
    with pytest.raises(ValueError, match=r"redundant in \[0, latents\], got 4 and 5 redundant"):
        build(latents=4, redundant=5)


def test_latents_of_a_seeded_net_stay_what_they_were():
    """Guards the agreement with the official code, which was measured once."""
    encoder = build(redundant=6)
    image = torch.linspace(-1, 1, 3 * 32 * 32, dtype=torch.float64).reshape(1, 3, 32, 32)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.3)
        found = encoder(image).values[0, ::5, ::3].flatten()
    torch.testing.assert_close(found, torch.tensor(GOLDEN, dtype=torch.float64), rtol=1e-6, atol=1e-9)


GOLDEN = [-2.341684519978417, 0.38949135113445477, -2.315262234599539, 0.460695883805762]
