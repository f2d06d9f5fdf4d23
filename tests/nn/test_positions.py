"""Positions: learned tables that resize, sines and cosines, and rotations."""

import math

import pytest
import torch
from torch.nn import functional as F

from imtok.nn.positions import GridPositions, grid_coordinates, rotate, rotations, sincos_positions


def test_a_table_at_its_own_grid_is_returned_as_it_is():
    positions = GridPositions((3, 4), width=8, factor=16)
    assert positions((3, 4)) is positions.table
    assert positions.table.std().item() == pytest.approx(0.02, rel=0.3)


def test_another_grid_is_refused_by_the_name_of_its_image_size():
    with pytest.raises(ValueError, match=r"image size must be 48 x 64, .* got 64 x 48; .* positions=interpolated"):
        GridPositions((3, 4), width=8, factor=16)((4, 3))


def test_a_resized_table_is_the_bicubic_one_row_by_row():
    positions = GridPositions((4, 6), width=5, factor=16, interpolate=True)
    with torch.no_grad():
        positions.table.normal_()
    table = positions.table.reshape(4, 6, 5).permute(2, 0, 1)[None]
    expected = F.interpolate(table, size=(8, 3), mode="bicubic", align_corners=False)[0].flatten(1).T
    torch.testing.assert_close(positions((8, 3)), expected)


def test_resizing_keeps_what_is_linear_in_the_place():
    """The inner half of a ramp stays nearly that ramp at twice the resolution, rows and columns not swapped."""
    positions = GridPositions((8, 8), width=2, factor=16, interpolate=True).double()
    place = grid_coordinates((8, 8)).double() + 0.5
    with torch.no_grad():
        positions.table.copy_(place)
    finer = positions((16, 16)).reshape(16, 16, 2)[4:-4, 4:-4]
    expected = ((grid_coordinates((16, 16)) + 0.5) / 2).reshape(16, 16, 2)[4:-4, 4:-4].double()
    torch.testing.assert_close(finer, expected, atol=0.05, rtol=0)


def test_sines_and_cosines_are_those_of_mae():
    """A quarter of the channels each: sine and cosine of the row, sine and cosine of the column, base 10000."""
    width, grid = 16, (3, 5)
    table = sincos_positions(grid, width)
    for row in range(grid[0]):
        for column in range(grid[1]):
            angles = [[place / 10000 ** (i / 4) for i in range(4)] for place in (row, column)]
            expected = [f(angle) for axis in angles for f in (math.sin, math.cos) for angle in axis]
            assert table[row * 5 + column].tolist() == pytest.approx(expected, abs=1e-6)


def test_every_place_of_a_large_grid_has_a_vector_of_its_own():
    table = sincos_positions((32, 32), 64)
    distances = torch.cdist(table, table).fill_diagonal_(1)
    assert distances.min() > 0.05
    torch.testing.assert_close(table.square().sum(1), torch.full((1024,), 32.0))


def test_sines_and_cosines_need_a_width_of_four_channels():
    with pytest.raises(ValueError, match="width must be a multiple of 4 for sines and cosines of two axes, got 6"):
        sincos_positions((2, 2), 6)


def rotated(vector, *place, widths=(8,)):
    rotation = rotations(torch.tensor([place], dtype=torch.float64), widths)
    return rotate(vector[None, None, None], rotation)[0, 0, 0]


def test_scores_of_rotated_vectors_depend_on_the_difference_of_places_alone():
    query, key = torch.randn(2, 8, dtype=torch.float64)
    score = rotated(query, 3.0) @ rotated(key, 7.0)
    for shift in (-3.0, 1.0, 40.0):
        torch.testing.assert_close(rotated(query, 3.0 + shift) @ rotated(key, 7.0 + shift), score)
    assert not torch.isclose(rotated(query, 3.0) @ rotated(key, 8.0), score)


def test_each_axis_turns_channels_of_its_own():
    query, key = torch.randn(2, 12, dtype=torch.float64)
    widths = (4, 8)
    moved = [rotated(query, *place, widths=widths) - query for place in ((2.0, 0.0), (0.0, 2.0))]
    assert moved[0].abs().gt(1e-9).tolist() == [True] * 4 + [False] * 8
    assert moved[1].abs().gt(1e-9).tolist() == [False] * 4 + [True] * 8
    score = rotated(query, 1.0, 5.0, widths=widths) @ rotated(key, 4.0, 2.0, widths=widths)
    torch.testing.assert_close(rotated(query, 11.0, 7.0, widths=widths) @ rotated(key, 14.0, 4.0, widths=widths), score)


def test_rotation_is_multiplication_by_a_unit_complex_number():
    vector = torch.randn(8, dtype=torch.float64)
    angles = 3.0 * 10000.0 ** (-torch.arange(0, 8, 2, dtype=torch.float64) / 8)
    turned = torch.view_as_complex(vector.reshape(4, 2)) * torch.polar(torch.ones(4, dtype=torch.float64), angles)
    torch.testing.assert_close(rotated(vector, 3.0), torch.view_as_real(turned).flatten())
    torch.testing.assert_close(rotated(vector, 3.0).norm(), vector.norm())
    torch.testing.assert_close(rotated(vector, 0.0), vector)


def test_rotations_of_each_image_are_its_own():
    heads = torch.randn(2, 3, 5, 8, dtype=torch.float64)
    places = torch.randint(9, (2, 5, 1)).double()
    each = torch.stack([rotations(place, [8]) for place in places])
    turned = rotate(heads, each)
    for image in range(2):
        torch.testing.assert_close(turned[image : image + 1], rotate(heads[image : image + 1], each[image]))


def test_rotation_keeps_the_precision_of_the_heads():
    heads = torch.randn(1, 2, 5, 8).bfloat16()
    assert rotate(heads, rotations(torch.arange(5.0)[:, None], [8])).dtype == torch.bfloat16


@pytest.mark.parametrize("widths", [[3], [4, 4], []])
def test_widths_that_do_not_fit_the_axes_are_refused(widths):
    with pytest.raises(ValueError, match="widths must be an even number for each of 1 axes, got"):
        rotations(torch.zeros(2, 1), widths)


def test_coordinates_run_row_by_row():
    assert grid_coordinates((2, 3)).tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
