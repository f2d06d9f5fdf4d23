"""Features of our vision transformer are those of timm's nets, through the files that timm writes."""

import pytest
import torch
from einops import rearrange
from nn.vits import NAMES, encoder_of, timm_net
from safetensors.torch import save_file
from torch import nn


def stored(net, path):
    save_file({name: value.contiguous() for name, value in net.state_dict().items()}, path)
    return path


def features(net, name, pixels):
    """Normed features of timm's net; of its EVA-02 the norm is the head's."""
    found = net.forward_features(pixels)
    return net.fc_norm(found) if name == "eva02_s14" else found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
@pytest.mark.parametrize("name", NAMES)
def test_features_are_those_of_timm(name, dtype, tmp_path):
    net = timm_net(name, 112)
    encoder = encoder_of(name, 112)
    encoder.read_weights(stored(net, tmp_path / "net.safetensors"))
    pixels = torch.randn(2, 3, 112, 112).to(dtype)
    with torch.no_grad():
        found, expected = encoder.to(dtype).net(pixels), features(net.to(dtype), name, pixels)
    error = (found - expected).abs().max().item()
    assert found.shape == expected.shape
    assert error < (1e-5 if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize(
    ("name", "theirs", "style"),
    [
        ("dinov2_b14", {"mlp_ratio": 16 / 3, "act_layer": nn.SiLU, "mlp_layer": "packed"}, {"mlp_ratio": 8 / 3}),
        ("dinov3_s16", {"swiglu_mlp": True, "swiglu_align_to": 8}, {}),
        ("eva02_s14", {"scale_mlp": True, "qkv_fused": False}, {"mlp": "swiglu_norm"}),
    ],
    ids=["dinov2_g14", "dinov3_plus", "eva02_b14"],
)
def test_gated_networks_of_the_larger_ones_are_read_too(name, theirs, style, tmp_path):
    from timm.layers import SwiGLUPacked

    theirs = theirs | ({"mlp_layer": SwiGLUPacked} if "mlp_layer" in theirs else {})
    net, encoder = timm_net(name, 112, **theirs), encoder_of(name, 112, style={"mlp": "swiglu"} | style)
    encoder.read_weights(stored(net, tmp_path / "net.safetensors"))
    pixels = torch.randn(1, 3, 112, 112)
    with torch.no_grad():
        torch.testing.assert_close(encoder.net(pixels), features(net, name, pixels), rtol=0, atol=1e-5)


def test_the_biases_of_dinov3_that_some_files_have_are_read(tmp_path):
    net, encoder = timm_net("dinov3_s16", 64, qkv_bias=True), encoder_of("dinov3_s16", 64)
    encoder.read_weights(stored(net, tmp_path / "net.safetensors"))
    assert encoder.net.trunk.blocks[0].attention.query_value_bias.abs().min() > 0
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(encoder.net(pixels), net.forward_features(pixels), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_blocks_on_the_way_are_those_of_timm_and_what_lies_behind_them_is_left_out(name, tmp_path):
    net, side = timm_net(name, 112), 112
    encoder = encoder_of(name, side, layers=[0, -2])
    encoder.read_weights(stored(net, tmp_path / "net.safetensors"))
    assert len(encoder.net.trunk.blocks) == 2
    pixels = torch.randn(1, 3, side, side)
    with torch.no_grad():
        maps = net.forward_intermediates(pixels, indices=[0, 1], intermediates_only=True)
        found = encoder.net(pixels, encoder.layers)[:, encoder.net.prefix :]
    expected = torch.cat([rearrange(one, "b d h w -> b (h w) d") for one in maps], -1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_rotary_positions_take_any_grid(tmp_path):
    net, encoder = timm_net("dinov3_s16", 64), encoder_of("dinov3_s16", 64)
    encoder.read_weights(stored(net, tmp_path / "net.safetensors"))
    pixels = torch.randn(1, 3, 32, 96)
    with torch.no_grad():
        torch.testing.assert_close(encoder.net(pixels), net.forward_features(pixels), rtol=0, atol=1e-5)
