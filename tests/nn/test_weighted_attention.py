"""Weighted attention against attention on the tokens repeated."""

import pytest
import torch

from imtok.nn.positions import rotations
from imtok.nn.transformer import BlockStyle, Transformer
from imtok.nn.weighted_attention import WeightedSelfAttention


@pytest.mark.parametrize("style", [BlockStyle(), BlockStyle("layer_plain", 1e-5, "swiglu", 8 / 3, False, "rms", "mup")])
def test_a_trunk_treats_a_weighted_token_as_so_many_tokens(style):
    trunk = Transformer(width=16, depth=3, heads=2, style=style, modulated_segments=2).double()
    for block in trunk.blocks:
        torch.nn.init.normal_(block.modulation.linear.weight, std=0.3)
    tokens, condition = torch.randn(2, 6, 16).double(), torch.randn(2, 16).double()
    often = tokens[:, [0, 1, 2, 3, 4, 4, 4, 5, 5]]
    weights = torch.tensor([1, 1, 1, 1, 3, 2]).double()
    weighted = trunk(tokens, condition=condition, lengths=[2, 4], weights=weights)
    whole = trunk(often, condition=condition, lengths=[2, 7])
    torch.testing.assert_close(weighted, whole[:, [0, 1, 2, 3, 4, 7]], rtol=1e-12, atol=1e-12)
    assert (trunk(tokens, condition=condition, lengths=[2, 4]) - weighted).abs().max() > 1e-3


def test_rotations_turn_weighted_tokens_too_and_masks_do_not_go_with_weights():
    attention = WeightedSelfAttention(16, 2).double()
    tokens = torch.randn(1, 3, 16).double()
    turned = rotations(torch.tensor([[0.0], [1.0], [1.0]]).double(), [8])
    short = attention(tokens[:, :2], None, turned[:2], torch.tensor([1.0, 2.0]).double())
    whole = attention(tokens[:, [0, 1, 1]], None, turned)
    torch.testing.assert_close(short, whole[:, :2])
    with pytest.raises(ValueError, match="visible must be None where tokens are weighted"):
        attention(tokens, torch.ones(3, 3, dtype=torch.bool), None, torch.ones(3).double())
