"""A target inside the tokenizer: which channels count, and who learns by it."""

import pytest
import torch
from torch.nn import functional as F

from imtok.losses.alignment.own_features import OwnFeatures
from imtok.types import Quantized

IMAGE = torch.zeros(2, 3, 8, 8)
QUANTIZED = Quantized(torch.zeros(2, 4, 2), torch.zeros(2, 4, 1, dtype=torch.long))


@pytest.fixture
def made():
    return torch.randn(2, 9, 5, dtype=torch.float64, requires_grad=True)


@pytest.fixture
def seen():
    return torch.randn(2, 9, 15, dtype=torch.float64, requires_grad=True)


def value_of(loss, made, seen):
    return loss(IMAGE, QUANTIZED, {"decoder.features": made, "encoder.net": seen}, 0)


def test_the_last_depth_is_the_target_and_only_the_source_learns(made, seen):
    value = value_of(OwnFeatures("decoder.features", "encoder.net", depths=3), made, seen)
    cosine = (F.normalize(made, dim=-1) * F.normalize(seen[..., 10:], dim=-1)).sum(-1)
    torch.testing.assert_close(value, 1 - cosine.mean())
    value.backward()
    assert made.grad.any()
    assert seen.grad is None


def test_a_squared_error_can_be_asked_for(made, seen):
    value = value_of(OwnFeatures("decoder.features", "encoder.net", 3, "mse"), made, seen)
    torch.testing.assert_close(value, F.mse_loss(made, seen[..., 10:]))


def test_it_looks_at_both_and_refuses_what_does_not_lie_over_each_other(made, seen):
    loss = OwnFeatures("decoder.features", "encoder.net", depths=3, weight=0.5)
    assert (loss.needs, loss.weight) == (("decoder.features", "encoder.net"), 0.5)
    rule = "decoder.features must make features for encoder.net, which gives "
    with pytest.raises(ValueError, match=f"{rule}8 of width 15 for depths=3, got 9 of width 5"):
        value_of(loss, made, seen[:, 1:])
    with pytest.raises(ValueError, match=f"{rule}9 of width 15 for depths=3, got 9 of width 4"):
        value_of(loss, made[..., 1:], seen)
    with pytest.raises(ValueError, match="loss must compare vectors of one width, place by place, got 'contrastive'"):
        OwnFeatures("decoder.features", "encoder.net", loss="contrastive")
    with pytest.raises(ValueError, match="depths must be at least 1, got 0"):
        OwnFeatures("decoder.features", "encoder.net", 0)
