"""Residual blocks and spatial attention against their formulas."""

import pytest
import torch
from torch.nn import functional as F

from imtok.nn.convolution import ConvolutionStack, ResidualBlock, SpatialAttention, level_layers


def test_attention_is_the_softmax_of_scaled_products():
    attention = SpatialAttention(32).double()
    features = torch.randn(2, 32, 3, 5, dtype=torch.float64)
    normed = F.group_norm(features, attention.norm.num_groups, eps=1e-6).flatten(2)  # b c n

    def linear(conv, inputs):
        return torch.einsum("oc,bcn->bon", conv.weight[..., 0, 0], inputs) + conv.bias[:, None]

    query, key, value = (linear(conv, normed) for conv in (attention.query, attention.key, attention.value))
    weights = torch.einsum("bci,bcj->bij", query, key).mul(32**-0.5).softmax(-1)
    attended = linear(attention.project, torch.einsum("bij,bcj->bci", weights, value))
    torch.testing.assert_close(attention(features), features + attended.reshape(features.shape))


def test_attention_does_not_know_where_a_position_is():
    attention = SpatialAttention(32).double()
    features = torch.randn(1, 32, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(attention(features).flip(-1), attention(features.flip(-1)))


@pytest.mark.parametrize(("channels", "bias"), [((32, 32), True), ((32, 64), True), ((64, 32), False)])
def test_residual_block_is_its_formula(channels, bias):
    block = ResidualBlock(*channels, bias=bias).double()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.normal_()
    features = torch.randn(2, channels[0], 6, 6, dtype=torch.float64)
    weights = dict(block.named_parameters())

    def activate(name, inputs):
        groups = {32: 8, 64: 16}[inputs.shape[1]]
        normed = F.group_norm(inputs, groups, weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-6)
        return normed * normed.sigmoid()

    hidden = F.conv2d(activate("norm1", features), weights["conv1.weight"], weights.get("conv1.bias"), padding=1)
    change = F.conv2d(activate("norm2", hidden), weights["conv2.weight"], weights.get("conv2.bias"), padding=1)
    carried = features
    if channels[0] != channels[1]:
        carried = F.conv2d(features, weights["shortcut.weight"], weights.get("shortcut.bias"))
    torch.testing.assert_close(block(features), carried + change)
    assert ("conv1.bias" in weights) == bias


def test_stack_refuses_to_change_channels_by_attention():
    with pytest.raises(ValueError, match="layers must begin with 'residual'"):
        ConvolutionStack(["attention", "residual"], 32, 64)


def test_attention_follows_every_residual_block_of_the_lowest_level_only():
    assert level_layers(3, 2, "lowest") == [["residual"] * 2] * 2 + [["residual", "attention"] * 2]
    assert level_layers(2, 1, "none") == [["residual"]] * 2


@pytest.mark.parametrize(("levels", "blocks"), [(0, 2), (3, 0)])
def test_levels_and_blocks_must_be_positive(levels, blocks):
    with pytest.raises(ValueError, match=f"at least 1, got {levels} and {blocks}"):
        level_layers(levels, blocks, "none")


@pytest.mark.parametrize(
    ("attention", "attended"), [([], []), ([0], [0]), ([2, 0], [0, 2]), ("none", []), ("lowest", [2])]
)
def test_attention_follows_every_residual_block_of_the_levels_that_are_named(attention, attended):
    layers = level_layers(3, 2, attention)
    assert [level for level, own in enumerate(layers) if own == ["residual", "attention"] * 2] == attended
    assert all(own == ["residual"] * 2 for level, own in enumerate(layers) if level not in attended)


@pytest.mark.parametrize("attention", [[3], [-1], [1, 1]])
def test_levels_that_are_not_there_are_refused(attention):
    with pytest.raises(ValueError, match="attention must be lowest, none or a list of levels from 0 to 2, each once"):
        level_layers(3, 1, attention)
