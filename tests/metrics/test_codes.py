"""Code counts are exact, and what follows from them is the textbook's."""

import numpy as np
import pytest
import torch

from imtok.metrics.codes import CodeUsage


def test_counts_are_those_of_numpy_and_add_up():
    ids = torch.stack([torch.randint(0, 7, (5, 30)), torch.randint(0, 300, (5, 30))], dim=-1)
    whole, split = CodeUsage([7, 300]), CodeUsage([7, 300])
    whole.update(ids)
    for part in ids.split(2):
        split.update(part)
    for slot, size in enumerate((7, 300)):
        expected = np.bincount(ids[..., slot].flatten().numpy(), minlength=size)
        assert whole.counts[slot].tolist() == expected.tolist()
        assert split.counts[slot].tolist() == expected.tolist()
        probability = expected[expected > 0] / 150
        statistics = whole.compute()
        assert statistics["usage"][slot] == pytest.approx((expected > 0).mean())
        assert statistics["entropy_bits"][slot] == pytest.approx(-(probability * np.log2(probability)).sum())
        assert statistics["perplexity"][slot] == pytest.approx(2 ** -(probability * np.log2(probability)).sum())
        assert statistics["frequent"][slot] == pytest.approx((expected >= 0.08 * 150 / size).mean())


def test_uniform_use_has_the_whole_perplexity():
    metric = CodeUsage([64])
    metric.update(torch.arange(64).repeat(3)[None, :, None])
    statistics = metric.compute()
    assert statistics["perplexity"] == [pytest.approx(64)]
    assert statistics["relative_perplexity"] == [pytest.approx(1)]
    assert statistics["frequent"] == [1]


def test_a_constant_code_has_perplexity_one():
    metric = CodeUsage([64])
    metric.update(torch.full((2, 10, 1), 5))
    assert metric.compute()["perplexity"] == [1]
    assert metric.compute()["usage"] == [1 / 64]
    assert metric.compute()["entropy_bits"] == [0]


def test_what_is_not_kept_does_not_count():
    metric, ids, keep = CodeUsage([8]), torch.randint(0, 8, (4, 20, 1)), torch.rand(4, 20) < 0.5
    metric.update(ids, keep)
    assert metric.counts[0].tolist() == np.bincount(ids[keep][:, 0].numpy(), minlength=8).tolist()


def test_ids_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"\[0, 8\), got 0 to 8"):
        CodeUsage([8]).update(torch.tensor([[[0], [8]]]))
