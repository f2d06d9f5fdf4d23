"""Group norms: the published layout at published widths, and no dead channel at any width."""

import pytest
import torch
from torch import nn

from imtok.nn.norms import AdaptiveGroupNorm, group_norm, set_groups


@pytest.mark.parametrize("channels", [128, 256, 512, 1024])
def test_published_widths_get_the_published_groups(channels):
    norm = group_norm(channels)
    assert (norm.num_groups, norm.eps) == (32, 1e-6)


@pytest.mark.parametrize("channels", [1, 3, 6, 18, 37, 48, 96, 100])
def test_any_width_keeps_its_channels_apart_on_a_single_position(channels):
    features = torch.randn(4, channels, 1, 1)
    normed = group_norm(channels)(features)
    assert torch.isfinite(normed).all()
    if channels > 3:
        assert (normed.abs() > 1e-3).float().mean() > 0.9  # groups of one channel would be zero throughout


def test_adaptive_norm_gives_the_moments_that_the_condition_asks_for():
    norm = AdaptiveGroupNorm(channels=32, condition_channels=3).double()
    condition = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    normed = norm(torch.randn(2, 32, 16, 20, dtype=torch.float64), condition)
    flat = condition.flatten(2)
    centred = flat - flat.mean(-1, keepdim=True)
    deviation = (centred.square().sum(-1) / (flat.shape[-1] - 1)).sqrt()  # unbiased, as in the official code
    bias = flat.mean(-1) @ norm.bias.weight.T + norm.bias.bias
    scale = deviation @ norm.scale.weight.T + norm.scale.bias
    # Within a group of channels the normalised features have mean 0 and second moment 1.
    plain = (normed - bias[..., None, None]) / scale[..., None, None]
    groups = plain.reshape(2, norm.norm.num_groups, -1)
    torch.testing.assert_close(groups.mean(-1), torch.zeros_like(groups[..., 0]), atol=1e-4, rtol=0)
    torch.testing.assert_close(groups.square().mean(-1), torch.ones_like(groups[..., 0]), atol=1e-3, rtol=0)


def test_adaptive_norm_refuses_a_condition_without_deviation():
    with pytest.raises(ValueError, match=r"condition must have 2 or more positions, got \(1, 1\)"):
        AdaptiveGroupNorm(32, 3)(torch.randn(1, 32, 4, 4), torch.randn(1, 3, 1, 1))


def test_every_norm_of_a_net_gets_the_number_of_groups():
    net = nn.Sequential(group_norm(64), nn.Sequential(group_norm(96)), nn.LayerNorm(3))
    set_groups(net, None)
    assert [net[0].num_groups, net[1][0].num_groups] == [16, 24]
    set_groups(net, 32)
    assert [net[0].num_groups, net[1][0].num_groups] == [32, 32]
    for groups in (48, 0, -1):
        with pytest.raises(ValueError, match=f"groups must divide the .* channels of every norm, got {groups}"):
            set_groups(net, groups)
