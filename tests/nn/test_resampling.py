"""Down- and upsampling against plain torch."""

import pytest
import torch
from torch.nn import functional as F

from imtok.nn.resampling import DepthToSpaceUpsample, NearestUpsample, downsampler


def test_depth_to_space_is_pixel_shuffle_with_permuted_channels():
    upsample = DepthToSpaceUpsample(6).double()
    features = torch.randn(2, 6, 3, 4, dtype=torch.float64)
    channels_first = upsample.conv(features).unflatten(1, (4, 6)).transpose(1, 2).flatten(1, 2)
    assert torch.equal(upsample(features), F.pixel_shuffle(channels_first, 2))
    assert not torch.allclose(upsample(features), F.pixel_shuffle(upsample.conv(features), 2))


def test_nearest_upsampling_repeats_before_it_convolves():
    upsample = NearestUpsample(4).double()
    features = torch.randn(2, 4, 3, 5, dtype=torch.float64)
    repeated = features.repeat_interleave(2, -1).repeat_interleave(2, -2)
    torch.testing.assert_close(upsample(features), upsample.conv(repeated))


@pytest.mark.parametrize(("kind", "first"), [("padded_end", 0), ("padded_both", -1)])
def test_strided_convolution_reads_where_its_padding_says(kind, first):
    """With one kernel entry set at a time, the output is the input at offset ``first`` plus that entry."""
    halve = downsampler(kind, 1)
    conv = halve if isinstance(halve, torch.nn.Conv2d) else halve[1]
    image = torch.randn(1, 1, 6, 8)
    padded = F.pad(image, (2, 2, 2, 2))
    with torch.no_grad():
        conv.bias.zero_()
        for row, column in [(0, 0), (1, 2), (2, 1)]:
            conv.weight.zero_()
            conv.weight[0, 0, row, column] = 1
            top, left = 2 + first + row, 2 + first + column
            expected = padded[..., top : top + 6 : 2, left : left + 8 : 2]
            assert torch.equal(halve(image), expected)


def test_average_downsampling_keeps_the_mean():
    image = torch.randn(2, 3, 6, 8)
    halved = downsampler("average", 3)(image)
    assert halved.shape == (2, 3, 3, 4)
    torch.testing.assert_close(halved.mean((-1, -2)), image.mean((-1, -2)))
