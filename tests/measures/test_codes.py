"""Code counts are exact, and what follows from them is the textbook's."""

import numpy as np
import pytest
import torch

from imtok.measures.code_statistics import CodeUsage, PositionUsage


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


def test_the_correction_finds_the_entropy_of_few_tokens():
    """Uniform over 4096 codes, 4 tokens per code: the plug-in value lacks 0.17 bits, the corrected one 0.02."""
    metric = CodeUsage([4096])
    metric.update(torch.randint(0, 4096, (64, 256, 1)))
    statistics = metric.compute()
    assert 11.80 < statistics["entropy_bits"][0] < 11.86
    assert statistics["entropy_bits_corrected"][0] == pytest.approx(12, abs=0.03)
    counts = metric.counts[0]
    correction = (int((counts > 0).sum()) - 1) / (2 * 64 * 256 * np.log(2))
    assert statistics["entropy_bits_corrected"][0] == pytest.approx(
        statistics["entropy_bits"][0] + correction, rel=1e-12
    )


def test_positions_are_counted_apart():
    ids = torch.stack([torch.randint(0, 7, (40, 6)), torch.randint(0, 30, (40, 6))], dim=-1)
    keep = torch.rand(40, 6) < 0.7
    metric, whole = PositionUsage([7, 30], tokens=6), CodeUsage([7, 30])
    for rows in torch.arange(40).split(9):
        metric.update(ids[rows], keep[rows])
        whole.update(ids[rows], keep[rows])
    statistics = metric.compute()
    for slot in range(2):
        assert torch.equal(metric.counts[slot].sum(0), whole.counts[slot])
        for position in range(6):
            alone = CodeUsage([7, 30])
            alone.update(ids[:, position : position + 1], keep[:, position : position + 1])
            expected = alone.compute()
            assert statistics["tokens"][position, slot] == keep[:, position].sum()
            for name in ("entropy_bits", "entropy_bits_corrected"):
                assert statistics[name][position, slot].item() == pytest.approx(expected[name][slot], rel=1e-12)


def test_positions_that_cannot_be_counted_are_refused():
    metric = PositionUsage([8], tokens=3)
    with pytest.raises(ValueError, match="ids must have 3 tokens of 1 slots, got"):
        metric.update(torch.zeros(2, 4, 1, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"slot 0 must lie in \[0, 8\), got 0 to 8"):
        metric.update(torch.tensor([[[0], [8], [0]]]))
    with pytest.raises(ValueError, match="tokens times vocabularies must be 1 to"):
        PositionUsage([2**20], tokens=1024)
    metric.update(torch.zeros(0, 3, 1, dtype=torch.int64))
    assert metric.compute()["entropy_bits"].tolist() == [[0], [0], [0]]
