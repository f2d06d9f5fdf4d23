"""Fixed positions against the formula of DiT, position by position."""

import math

import pytest
import torch
from encoders.presets import unchecked

from imtok.nn.fixed_positions import SincosPositions


@pytest.mark.parametrize(("axes", "first"), [("row column", 0), ("column row", 1)])
def test_half_of_the_channels_stands_for_each_axis(axes, first):
    table = SincosPositions((3, 5), width=16, factor=8, axes=axes)((3, 5))
    for row in range(3):
        for column in range(5):
            order = [(row, column)[first], (row, column)[1 - first]]
            angles = [[place / 10000 ** (index / 4) for index in range(4)] for place in order]
            expected = [wave(angle) for half in angles for wave in (math.sin, math.cos) for angle in half]
            torch.testing.assert_close(table[row * 5 + column], torch.tensor(expected))


def test_it_learns_nothing_and_stores_nothing_but_follows_the_module():
    positions = SincosPositions((2, 2), width=8, factor=8).double()
    assert list(positions.parameters()) == []
    assert list(positions.state_dict()) == []
    assert positions((2, 2)).dtype == torch.float64


def test_another_grid_is_resized_or_refused_by_name():
    with pytest.raises(ValueError, match=r"image size must be 32 x 32, .* got 48 x 32"):
        SincosPositions((2, 2), width=8, factor=16)((3, 2))
    resized = SincosPositions((2, 2), width=8, factor=16, interpolate=True)((4, 4))
    assert resized.shape == (16, 8)
    with unchecked(), pytest.raises(ValueError, match="axes must be one of row column, column row, got 'x y'"):
        SincosPositions((2, 2), width=8, factor=16, axes="x y")


def test_a_smaller_grid_takes_the_first_rows_and_columns_where_the_table_is_cropped():
    trained = SincosPositions((4, 4), width=8, factor=16, crop=True)
    table = trained((4, 4)).unflatten(0, (4, 4))
    torch.testing.assert_close(trained((3, 2)), table[:3, :2].flatten(0, 1), rtol=0, atol=0)
    torch.testing.assert_close(trained((1, 4)), table[:1].flatten(0, 1), rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"image size must be at most 64 x 64, .* got 80 x 32"):
        trained((5, 2))
    trained.interpolate = True  # positions=interpolated of a command
    assert not torch.equal(trained((3, 2)), table[:3, :2].flatten(0, 1))
