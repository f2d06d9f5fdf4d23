"""FQGAN's encoder: what the adapters share, what is theirs alone, and where their latents stand."""

import pytest
import torch
from encoders.presets import preset
from torch import nn
from torch.nn import functional as F

from imtok.construct import construct
from imtok.encoders.adapters import AdapterEncoder
from imtok.encoders.cnn import CNNEncoder

CNN = {"channels": 16, "multipliers": (1, 2), "blocks": 1}
SMALL = CNN | {"image_size": 16, "depth": 2, "heads": 2, "latent_channels": 12}


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
    assert changed(net, image, net.conv_in.weight) == [True] * 6
    calls = []
    net.conv_in.register_forward_hook(lambda *_: calls.append(1))
    net(image)
    assert len(calls) == 1


def test_an_adapter_is_positions_a_norm_blocks_a_norm_and_what_ends_the_cnn(image):
    net = encoder().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(std=0.3)
        maps = net.features(image)
        expected = [by_hand(adapter, maps) for adapter in net.adapters]
    torch.testing.assert_close(net(image).values, torch.cat(expected, 1).flatten(2).mT, rtol=1e-9, atol=1e-9)


def by_hand(adapter, maps):
    tokens = maps.flatten(2).mT + adapter.positions.table
    tokens = layer_norm(tokens, adapter.norm_pre)
    for block in adapter.transformer.blocks:
        attention = nn.MultiheadAttention(32, 2, batch_first=True).double()
        attention.in_proj_weight.data = block.attention.query_key_value.weight.data
        attention.in_proj_bias.data = block.attention.query_key_value.bias.data
        attention.out_proj = block.attention.project
        seen = layer_norm(tokens, block.norm1)
        tokens = tokens + attention(seen, seen, seen, need_weights=False)[0]
        tokens = tokens + block.mlp[2](F.gelu(block.mlp[0](layer_norm(tokens, block.norm2))))
    written = layer_norm(tokens, adapter.norm_post).mT.unflatten(2, (8, 8))
    norm = adapter.norm_out[0]
    written = F.silu(F.group_norm(written, 8, norm.weight, norm.bias, 1e-6))
    written = F.conv2d(written, adapter.conv_out.weight, adapter.conv_out.bias, padding=1)
    return F.conv2d(written, adapter.project.weight, adapter.project.bias)


def layer_norm(tokens, norm):
    return F.layer_norm(tokens, (32,), norm.weight, norm.bias, 1e-5)


def test_the_map_is_that_of_a_cnn_up_to_its_middle(image):
    net, cnn = encoder(), CNNEncoder(6, **CNN).double()
    loaded = cnn.load_state_dict(net.state_dict(), strict=False)
    assert {name.split(".")[0] for name in loaded.missing_keys} == {"norm_out", "conv_out", "project"}
    assert {name.split(".")[0] for name in loaded.unexpected_keys} == {"adapters"}
    assert torch.equal(net.features(image), cnn.features(image))


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


def test_each_adapter_of_the_preset_has_the_published_number_of_parameters():
    with torch.device("meta"):
        net = construct(preset("encoder", "fqgan_dual"), provided={"out_dim": 16, "image_size": 256})
    # what a third code adds to the published encoder, and the 1 x 1 convolution to its codes, which is counted apart
    assert [count(part) for part in net.adapters] == [88_802_304 - 68_573_952 + 2_056] * 2


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_groups_are_those_of_every_norm_of_maps():
    net = encoder(groups=2)
    found = {part.num_groups for part in net.modules() if isinstance(part, nn.GroupNorm)}
    assert found == {2}
    with pytest.raises(ValueError, match="groups must divide the 16 channels of every norm, got 3"):
        encoder(groups=3)
