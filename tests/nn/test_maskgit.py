"""Where a residual block of MaskGIT's VQGAN lets its input through."""

import pytest
import torch
from encoders.presets import unchecked

from imtok.nn.convolution import ResidualBlock


def test_only_a_shortcut_of_the_input_lets_it_pass_silent_convolutions():
    features = torch.randn(1, 8, 4, 4)
    blocks = {shortcut: ResidualBlock(8, 16, bias=False, shortcut=shortcut) for shortcut in ("input", "output")}
    for block in blocks.values():
        torch.nn.init.zeros_(block.conv2.weight)
    assert blocks["input"](features).any()
    assert not blocks["output"](features).any()


def test_blocks_of_one_width_add_their_input_either_way():
    features = torch.randn(1, 8, 4, 4)
    block = ResidualBlock(8, 8, shortcut="output")
    for conv in (block.conv1, block.conv2):
        torch.nn.init.zeros_(conv.weight)
        torch.nn.init.zeros_(conv.bias)
    assert torch.equal(block(features), features)


def test_an_unknown_shortcut_is_refused_by_name():
    with unchecked(), pytest.raises(ValueError, match="shortcut must be one of input, output, got 'none'"):
        ResidualBlock(8, 16, shortcut="none")
