"""How weights start, against the bounds of the formulas."""

import math

import pytest
import torch
from encoders.presets import unchecked
from torch import nn

from imtok.nn.initialization import start_weights
from imtok.nn.transformer import Transformer


def test_xavier_bounds_query_key_and_value_each_on_its_own():
    trunk = Transformer(width=64, depth=1, heads=2)
    start_weights(trunk, "xavier")
    attention = trunk.blocks[0].attention
    bound = math.sqrt(6 / (64 + 64))
    for weight in (*attention.query_key_value.weight.chunk(3), attention.project.weight):
        assert 0.98 * bound < weight.abs().max() <= bound
    wide = trunk.blocks[0].mlp[0].weight
    assert 0.98 * math.sqrt(6 / (64 + 256)) < wide.abs().max() <= math.sqrt(6 / (64 + 256))
    assert not attention.project.bias.any()


def test_normal_has_deviation_002_and_modulations_stay_at_zero():
    trunk = Transformer(width=64, depth=1, heads=2, modulated_segments=2)
    start_weights(trunk, "normal")
    assert trunk.blocks[0].attention.project.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not trunk.blocks[0].modulation.linear.weight.any()


def test_another_start_is_refused():
    with unchecked(), pytest.raises(ValueError, match="start must be one of xavier, normal, got 'zero'"):
        start_weights(nn.Linear(2, 2), "zero")
    linear = nn.Linear(2, 2, bias=False)
    start_weights(linear, "normal")
    assert torch.isfinite(linear.weight).all()
