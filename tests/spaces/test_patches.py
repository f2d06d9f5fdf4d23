"""Patches of pixels: nothing is lost on the way, and the scale is that of the maps."""

from pathlib import Path

import pytest
import torch

from imtok.errors import InputError
from imtok.spaces.patches import Patches


@pytest.mark.parametrize(("factor", "scale"), [(1, 1.0), (2, 2.0), (4, 0.5)])
def test_every_image_comes_back_as_it_was(factor, scale):
    space, image = Patches(factor, scale), torch.rand(2, 3, 8, 16) * 2 - 1
    features = space.encode(image)
    assert features.shape == (2, space.dim, 8 // factor, 16 // factor)
    assert torch.equal(space.decode(features), image)


def test_a_position_holds_the_pixels_of_its_square_times_the_scale():
    image = torch.rand(1, 3, 4, 6)
    features = Patches(2, scale=3.0).encode(image)
    for row in range(2):
        for column in range(3):
            square = image[0, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            assert torch.equal(features[0, :, row, column].sort().values, (3 * square).flatten().sort().values)


def test_gradients_pass_through_it_and_nothing_in_it_learns():
    space, image = Patches(), torch.zeros(1, 3, 4, 4, requires_grad=True)
    space.decode(space.encode(image)).sum().backward()
    assert image.grad is not None
    assert torch.equal(image.grad, torch.ones_like(image))
    assert list(space.state_dict()) == []


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"factor and scale must be positive, got 0 and 2\.0"):
        Patches(factor=0)
    with pytest.raises(ValueError, match=r"factor and scale must be positive, got 2 and -1\.0"):
        Patches(scale=-1.0)
    with pytest.raises(ValueError, match="must be multiples of 2 for this space, got 3 x 4"):
        Patches().encode(torch.zeros(1, 3, 3, 4))
    with pytest.raises(InputError, match=r"space\.weights=net\.pt cannot be read: patches of pixels have no weights"):
        Patches().read_weights(Path("net.pt"))
