"""The time embedding against its formula."""

import math

import torch

from imtok.nn.time import TimeEmbedding


def test_waves_turn_by_1000_rad_at_most_and_by_a_period_less_at_least():
    embedding = TimeEmbedding(width=256, period=256.0).double()
    seen = []
    embedding.linear1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    embedding(torch.tensor([0.25, 0.0], dtype=torch.float64))
    waves, start = seen[0]
    expected = [250 * 256 ** (-index / 128) for index in range(128)]
    torch.testing.assert_close(
        waves, torch.tensor([math.cos(a) for a in expected] + [math.sin(a) for a in expected]).double()
    )
    assert torch.equal(start, torch.tensor([1.0] * 128 + [0.0] * 128, dtype=torch.float64))


def test_the_waves_are_taken_in_the_precision_of_the_time():
    """A thousand rad in half precision would be noise."""
    embedding = TimeEmbedding(width=8)
    with torch.autocast("cpu", torch.bfloat16):
        near = embedding(torch.tensor([0.7, 0.7001]))
    assert (near[0] - near[1]).abs().max() > 0
