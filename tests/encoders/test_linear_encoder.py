"""Linear maps between all pixels and a sequence."""

import pytest
import torch

from imtok.decoders.linear import LinearDecoder
from imtok.encoders.linear import LinearEncoder


def test_latents_are_linear_in_the_image():
    encoder = LinearEncoder(3, image_size=8, latents=4, image_channels=1).double()
    one, other = torch.rand(2, 2, 1, 8, 8, dtype=torch.float64)
    halfway = encoder((one + other) / 2).values
    torch.testing.assert_close(halfway, (encoder(one).values + encoder(other).values) / 2)


def test_other_numbers_are_refused():
    with pytest.raises(ValueError, match="latents must be at least 1, got 0"):
        LinearEncoder(3, 8, 0)
    with pytest.raises(ValueError, match="width must be at least 1, got 0"):
        LinearDecoder(3, 8, 4, width=0)
