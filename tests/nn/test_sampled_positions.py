"""Positions are read off the map as nearest-neighbour interpolation does it."""

import pytest
import torch
from einops import rearrange
from torch.nn import functional as F

from imtok.nn.sampled_positions import SampledPositions


@pytest.mark.parametrize("grid", [(16, 16), (16, 32), (5, 7), (64, 64)])
def test_it_is_the_nearest_interpolation_of_the_map(grid):
    positions = SampledPositions((16, 16), width=3, factor=16, interpolate=True)
    reference = F.interpolate(rearrange(positions.map, "h w d -> 1 d h w"), size=grid)
    assert torch.equal(positions(grid), rearrange(reference, "1 d h w -> (h w) d"))


def test_another_grid_is_refused_with_the_trained_size():
    with pytest.raises(ValueError, match=r"image size must be 256 x 256.* got 256 x 512"):
        SampledPositions((16, 16), width=3, factor=16)((16, 32))
