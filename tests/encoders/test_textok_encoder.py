"""What TexTok's encoder makes of text."""

import pytest
import torch

from imtok.encoders.textok import TexTokEncoder
from imtok.types import Condition

SIZES = {"image_size": 32, "patch_size": 8, "width": 16, "depth": 2, "heads": 2, "context_dim": 6, "context_length": 5}
IMAGE = torch.rand(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    encoder = TexTokEncoder(out_dim=4, latents=3, **SIZES).double().eval()
    with torch.no_grad():
        for value in encoder.parameters():
            value.normal_(std=0.3)
    return encoder


def encode(encoder, condition=None):
    return encoder(IMAGE, condition=condition).values


def test_the_text_changes_the_latents(encoder):
    first, second = (Condition(text=text) for text in torch.randn(2, 2, 5, 6, dtype=torch.float64))
    assert not torch.allclose(encode(encoder, first), encode(encoder, second))
    assert not torch.allclose(encode(encoder, first), encode(encoder))


def test_what_is_not_said_is_a_learned_vector_for_each_row(encoder):
    text = torch.randn(2, 5, 6, dtype=torch.float64)
    mask = torch.tensor([[True, True, False, False, False], [False] * 5])
    found = encode(encoder, Condition(text=text, mask=mask))
    text[~mask] = encoder.missing_context
    torch.testing.assert_close(found, encode(encoder, Condition(text=text)))
    torch.testing.assert_close(found[1], encode(encoder)[1])


def test_the_order_of_the_words_means_something(encoder):
    text = torch.randn(2, 5, 6, dtype=torch.float64)
    swapped = encode(encoder, Condition(text=text.flip(1)))
    assert not torch.allclose(encode(encoder, Condition(text=text)), swapped)


def test_text_of_another_size_is_refused(encoder):
    with pytest.raises(ValueError, match=r"text must be at most 5 rows of width 6, got \(6, 6\)"):
        encode(encoder, Condition(text=torch.zeros(2, 6, 6, dtype=torch.float64)))
    with pytest.raises(ValueError, match="context_dim must be 7, the width of the condition's text, got 6"):
        TexTokEncoder(out_dim=4, text_dim=7, text_length=5, **SIZES)
    with pytest.raises(ValueError, match="context_length must be at least 6, the rows of the condition's text, got 5"):
        TexTokEncoder(out_dim=4, text_dim=6, text_length=6, **SIZES)


def test_the_latents_are_those_of_a_transformer_over_patches_latents_and_text(encoder):
    """Against plain sums of what its parts give."""
    text = torch.randn(2, 5, 6, dtype=torch.float64)
    patches = encoder.patches(IMAGE).flatten(2).transpose(1, 2) + encoder.positions.table
    words = text @ encoder.embed_context.weight.T + encoder.embed_context.bias + encoder.context_positions
    tokens = torch.cat([patches, encoder.latents.expand(2, -1, -1), words], 1)
    for block in [encoder.norm_in, *encoder.trunk.blocks]:
        tokens = block(tokens)
    expected = encoder.project(encoder.norm_out(tokens[:, 16:19]))
    torch.testing.assert_close(encode(encoder, Condition(text=text)), expected)
