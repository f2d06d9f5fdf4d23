"""FQGAN's encoder: what the adapters share, what is theirs alone, and where their latents stand."""

import pytest
import torch
from encoders.presets import preset
from torch import nn

from imtok.construct import construct
from imtok.encoders.adapters import AdapterEncoder

SMALL = {"image_size": 16, "width": 16, "depth": 2, "heads": 2, "channels": 16, "multipliers": (1, 2), "blocks": 1}


def encoder(**arguments):
    torch.manual_seed(3)
    return AdapterEncoder(**{"out_dim": 6} | SMALL | arguments).double()


@pytest.fixture
def image():
    return torch.rand(2, 3, 16, 16, dtype=torch.float64) * 2 - 1


def changed(net, image, parameter):
    before = net(image).values
    with torch.no_grad():
        parameter += torch.randn_like(parameter)
    return ((net(image).values - before).abs().amax((0, 1)) > 1e-9).tolist()


@pytest.mark.parametrize(("branch", "channels"), [(0, [True] * 3 + [False] * 3), (1, [False] * 3 + [True] * 3)])
def test_an_adapter_makes_its_own_channels_alone(branch, channels, image):
    net = encoder()
    for parameter in (net.adapters[branch].positions.table, net.adapters[branch].transformer.blocks[0].norm1.bias):
        assert changed(net, image, parameter) == channels


def test_all_adapters_read_the_same_map(image):
    net = encoder(branches=3)
    assert changed(net, image, net.trunk.conv_in.weight) == [True] * 6
    calls = []
    net.trunk.register_forward_hook(lambda *_: calls.append(1))
    net(image)
    assert len(calls) == 1


def test_without_blocks_it_is_the_cnn_with_a_norm_and_a_linear_map_of_each_position(image):
    net = encoder(depth=0)
    maps = net.trunk.conv_out(net.trunk.norm_out(net.trunk.middle(features(net.trunk, image))))
    rows = maps.flatten(2).transpose(1, 2)
    assert rows.shape == (2, 64, 16)
    parts = []
    for adapter in net.adapters:
        seen = nn.functional.layer_norm(rows + adapter.positions.table, (16,), adapter.norm.weight, adapter.norm.bias)
        parts.append(seen @ adapter.project.weight.T + adapter.project.bias)
    torch.testing.assert_close(net(image).values, torch.cat(parts, -1))


def features(cnn, image):
    seen = cnn.levels[0](cnn.conv_in(image))
    for halve, level in zip(cnn.downsamplers, cnn.levels[1:], strict=True):
        seen = level(halve(seen))
    return seen


def test_interpolated_positions_read_other_sizes():
    net = encoder(positions="interpolated")
    assert net.num_latents((32, 16)) == 128
    assert net(torch.rand(1, 3, 32, 16, dtype=torch.float64)).values.shape == (1, 128, 6)
    with pytest.raises(ValueError, match="image size must be 16 x 16"):
        encoder().num_latents((32, 16))


def test_blocks_that_are_computed_again_give_the_same_gradients(image):
    found = []
    for checkpoint in (False, True):
        net = encoder(checkpoint=checkpoint).train()
        net(image).values.square().sum().backward()
        found.append([parameter.grad for parameter in net.parameters()])
    assert all(map(torch.equal, *found))


def test_a_width_that_branches_do_not_share_evenly_is_refused():
    for branches in (0, 4):
        with pytest.raises(ValueError, match=f"branches must be a divisor of the latents' width 6, got {branches}"):
            encoder(branches=branches)


def test_the_preset_is_llamagens_cnn_and_six_blocks_for_each_code():
    with torch.device("meta"):
        net = construct(preset("encoder", "fqgan_dual"), provided={"out_dim": 16, "image_size": 256})
    # 29,300,232 with a 1 x 1 convolution from 256 channels to 8, which is no part of the trunk here
    assert count(net.trunk) == 29_300_232 - (256 * 8 + 8)
    block = 12 * 256**2 + 13 * 256  # attention, MLP four times as wide, two norms, all biases
    adapter = 6 * block + 256 * 256 + 2 * 256 + 256 * 8 + 8
    assert [count(part) for part in net.adapters] == [adapter, adapter]


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())
