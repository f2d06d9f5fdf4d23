"""With convolutions of zero what remains is the mean of four positions, and their repetition."""

import torch
from torch.nn import functional as F

from imtok.nn.residual_resampling import ResidualDoubling, ResidualHalving


def without_convolution(module):
    for parameter in module.parameters():
        torch.nn.init.zeros_(parameter)
    return module


def test_the_shortcut_is_what_pixel_shuffle_makes_of_channels():
    """The public code writes it as means and repetitions of channels around a pixel shuffle."""
    features = torch.randn(2, 3, 4, 6)
    mean = F.pixel_unshuffle(features, 2).unflatten(1, (3, 4)).mean(2)
    torch.testing.assert_close(without_convolution(ResidualHalving(3))(features), mean)
    repeated = F.pixel_shuffle(features.repeat_interleave(4, 1), 2)
    torch.testing.assert_close(without_convolution(ResidualDoubling(3))(features), repeated)


def test_halving_undoes_doubling_without_convolutions():
    features = torch.randn(2, 3, 4, 6)
    doubled = without_convolution(ResidualDoubling(3))(features)
    torch.testing.assert_close(without_convolution(ResidualHalving(3))(doubled), features)
