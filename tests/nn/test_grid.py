"""The edge between maps and sequences."""

import pytest
import torch

from imtok.nn.grid import grid_size, to_map, to_sequence


def test_a_sequence_reads_a_map_row_by_row():
    features = torch.arange(6.0).reshape(1, 1, 2, 3)
    assert to_sequence(features).flatten().tolist() == [0, 1, 2, 3, 4, 5]


def test_to_map_inverts_to_sequence():
    features = torch.randn(2, 5, 3, 4)
    again = to_map(to_sequence(features).contiguous(), (24, 32), 8)
    assert torch.equal(again, features)
    assert again.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("size", [(65, 64), (64, 60), (0, 64), (4, 8)])
def test_sizes_that_are_no_multiple_are_refused(size):
    with pytest.raises(ValueError, match=f"positive multiple of 8 in height and width, got {size[0]} x {size[1]}"):
        grid_size(size, 8)


def test_a_sequence_that_does_not_fill_the_grid_is_refused():
    with pytest.raises(ValueError, match=r"latents must be 12 \(3 x 4\) to fill an image of 24 x 32, got 11"):
        to_map(torch.randn(1, 11, 5), (24, 32), 8)
