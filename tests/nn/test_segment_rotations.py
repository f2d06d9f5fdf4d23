"""Three axes: the index of a latent, row and column; and the arrangement of the public weights."""

import pytest
import torch
from encoders.presets import unchecked

from imtok.nn.positions import rotate
from imtok.nn.segment_rotations import HalvesAttention, axis_widths, rotary_trunk, segment_rotation

LIKE = torch.zeros(1, dtype=torch.float64)


def test_a_head_of_64_is_split_as_published():
    assert axis_widths(64) == [8, 28, 28]


def test_any_even_head_has_an_even_number_of_channels_for_each_axis():
    for width in range(6, 130, 2):
        widths = axis_widths(width)
        assert sum(widths) == width
        assert all(part >= 2 and part % 2 == 0 for part in widths)


def scores(latents, grid, span, query, key):
    """Of the same query and key at every pair of tokens."""
    rotation = segment_rotation(latents, grid, span, 64, LIKE)
    heads = (
        rotate(query.expand(1, 1, len(rotation), -1), rotation),
        rotate(key.expand(1, 1, len(rotation), -1), rotation),
    )
    return (heads[0] @ heads[1].transpose(-1, -2))[0, 0]


def test_scores_depend_on_distances_alone():
    query, key = torch.randn(2, 64, dtype=torch.float64)
    found = scores(4, (3, 5), (3, 5), query, key)
    latents, patches = found[:4, :4], found[4:, 4:].reshape(3, 5, 3, 5)
    torch.testing.assert_close(latents[1:, 1:], latents[:-1, :-1])
    torch.testing.assert_close(patches[1:, 1:, 1:, 1:], patches[:-1, :-1, :-1, :-1])
    assert not torch.allclose(patches[0, 0, 0, 1], patches[0, 0, 1, 0])


def test_a_larger_grid_spans_the_coordinates_of_the_trained_one():
    """Corners of a 9 x 5 grid stand where those of a 5 x 3 grid do, and every second row and column in between."""
    large, small = (segment_rotation(0, grid, (5, 3), 64, LIKE) for grid in ((9, 5), (5, 3)))
    torch.testing.assert_close(large.reshape(9, 5, -1)[::2, ::2].reshape(15, -1), small)
    assert torch.isfinite(segment_rotation(2, (1, 1), (5, 3), 64, LIKE)).all()


def test_the_published_arrangement_turns_by_its_formula():
    """Channel i pairs with i + 4 of 8, and takes the angle of its neighbouring pair; scores are no longer relative."""
    attention = HalvesAttention(8, 1, bias=False, query_key_norm="rms").double()
    tokens, angles = torch.randn(1, 3, 8, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    query, key, value = attention.query_key_value(tokens)[0].chunk(3, -1)
    turned = []
    for heads in (attention.query_norm(query), attention.key_norm(key)):
        out = torch.empty_like(heads)
        for i in range(4):
            low, high = angles[:, i // 2], angles[:, (i + 4) // 2]
            out[:, i] = heads[:, i] * low.cos() - heads[:, i + 4] * low.sin()
            out[:, i + 4] = heads[:, i + 4] * high.cos() + heads[:, i] * high.sin()
        turned.append(out)
    weights = (turned[0] @ turned[1].T / 8**0.5).softmax(-1)
    torch.testing.assert_close(attention(tokens, rotation=angles)[0], attention.project(weights @ value))


def test_an_unknown_arrangement_and_too_narrow_heads_are_refused():
    with unchecked(), pytest.raises(ValueError, match="rotary must be one of pairs, published, got 'half'"):
        rotary_trunk(16, 1, 2, "half", checkpoint=False)
    with pytest.raises(ValueError, match="even and at least 6"):
        rotary_trunk(8, 1, 2, "pairs", checkpoint=False)
