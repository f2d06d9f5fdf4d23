"""Adaptive layer norm: vectors of a condition, for each segment its own."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from imtok.nn.modulation import Modulation, modulate


def woken(parts, segments):
    modulation = Modulation(4, parts, segments).double()
    nn.init.normal_(modulation.linear.weight)
    nn.init.normal_(modulation.linear.bias)
    return modulation


def condition():
    return torch.randn(3, 4, dtype=torch.float64)


def test_it_starts_at_zero():
    vectors = Modulation(4, 6, 2)(torch.randn(3, 4), [2, 5])
    assert len(vectors) == 6
    assert not torch.stack(vectors).any()


def test_one_segment_is_one_vector_for_all_tokens():
    modulation, given = woken(parts=3, segments=1), condition()
    flat = F.silu(given) @ modulation.linear.weight.T + modulation.linear.bias
    for part, vector in enumerate(modulation(given, [])):
        torch.testing.assert_close(vector, flat[:, None, 4 * part : 4 * part + 4])


def test_each_segment_has_vectors_of_its_own_for_all_its_tokens():
    modulation, given = woken(parts=3, segments=2), condition()
    flat = F.silu(given) @ modulation.linear.weight.T + modulation.linear.bias
    for part, vector in enumerate(modulation(given, [2, 5])):
        assert vector.shape == (3, 7, 4)
        for segment, tokens in ((0, slice(0, 2)), (1, slice(2, 7))):
            start = 4 * (3 * segment + part)
            expected = flat[:, None, start : start + 4]
            torch.testing.assert_close(vector[:, tokens], expected.expand_as(vector[:, tokens]))


def test_an_empty_segment_is_allowed():
    assert woken(parts=2, segments=2)(condition(), [3, 0])[0].shape == (3, 3, 4)


def test_lengths_must_be_those_of_the_segments():
    with pytest.raises(ValueError, match=r"lengths must be those of 2 segments, got \[7\]"):
        woken(parts=2, segments=2)(condition(), [7])


def test_modulating_by_zero_changes_nothing_and_else_is_affine():
    tokens = torch.randn(3, 5, 4, dtype=torch.float64)
    zero = torch.zeros(3, 1, 4, dtype=torch.float64)
    assert torch.equal(modulate(tokens, zero, zero), tokens)
    shift, scale = torch.randn(2, 3, 1, 4, dtype=torch.float64)
    torch.testing.assert_close(modulate(tokens, shift, scale), tokens + tokens * scale + shift)
