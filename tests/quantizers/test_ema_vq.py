"""What only EMA-VQ promises."""

import pytest
import torch
import torch.nn.functional as F
from quantizers.contract import together

from imtok.quantizers.ema_vq import EMAVQ


def test_two_updates_follow_the_formulas():
    quantizer = EMAVQ(dim=3, codebook_size=6, decay=0.9).double()
    table, counts, sums = quantizer.table().clone(), torch.ones(6).double(), quantizer.sums.clone()
    torch.testing.assert_close(table, sums)
    for _ in range(2):
        latents = torch.randn(2, 20, 3, dtype=torch.float64)
        points = latents.flatten(0, 1)
        chosen = F.one_hot(torch.cdist(points, table).argmin(-1), 6).double()
        counts = 0.9 * counts + 0.1 * chosen.sum(0)
        sums = 0.9 * sums + 0.1 * chosen.T @ points
        total = counts.sum()
        table = sums / ((counts + 1e-5) / (total + 6e-5) * total)[:, None]
        quantizer.update(quantizer(latents).stats)
        torch.testing.assert_close(quantizer.table(), table)


def test_codes_without_tokens_stay_where_they_are_at_first():
    quantizer = EMAVQ(dim=16, codebook_size=1024)
    before = quantizer.table().clone()
    quantized = quantizer(torch.randn(1, 256, 16))
    quantizer.update(quantized.stats)
    unused = quantized.stats["counts"] == 0
    assert unused.sum() > 700
    torch.testing.assert_close(quantizer.table()[unused], before[unused], rtol=1e-3, atol=1e-3)
    assert (quantizer.table().norm(dim=-1) / before.norm(dim=-1)).max() < 2


def test_codes_converge_to_the_means_of_their_tokens():
    quantizer = EMAVQ(dim=2, codebook_size=2, decay=0.5)
    latents = torch.tensor([[[3.0, 0.0], [5.0, 0.0], [-4.0, 1.0]]])
    quantizer.sums.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    for _ in range(40):
        quantizer.update(quantizer(latents).stats)
    torch.testing.assert_close(quantizer.table(), torch.tensor([[4.0, 0.0], [-4.0, 1.0]]), rtol=1e-4, atol=1e-4)


def test_commitment_is_the_only_loss_and_moves_only_the_latents():
    quantizer = EMAVQ(dim=4, codebook_size=16, commit_weight=0.5).double()
    latents = torch.randn(2, 5, 4, dtype=torch.float64, requires_grad=True)
    quantized = quantizer(latents)
    assert list(quantized.losses) == ["commit"]
    assert quantized.losses["commit"].weight == 0.5
    assert not list(quantizer.parameters())
    quantized.losses["commit"].value.backward()
    torch.testing.assert_close(latents.grad, 2 / 40 * (latents - quantizer.decode(quantized.ids)).detach())


@pytest.mark.parametrize("normalize", [True, False])
def test_a_collapsed_codebook_recovers_by_restarts(normalize):
    quantizer = EMAVQ(dim=4, codebook_size=64, restart_below=0.1, decay=0.9, normalize=normalize)
    quantizer.sums.copy_(torch.tensor([0.0, 0, 0, -1]).expand(64, 4))
    quantizer.sums[0] = torch.tensor([0.0, 0, 0, 1])
    latents = F.normalize(torch.randn(8, 256, 4), dim=-1)
    assert quantizer(latents).ids.unique().numel() <= 2
    before = quantizer(latents).losses["commit"].value
    for _ in range(60):
        quantizer.update(quantizer(latents).stats)
    after = quantizer(latents)
    assert after.ids.unique().numel() > 56
    assert after.losses["commit"].value < before / 4


def test_a_restarted_code_survives_the_next_update():
    quantizer = EMAVQ(dim=4, codebook_size=8, restart_below=0.5, decay=0.9)
    quantizer.counts[3] = 1e-3
    quantizer.sums[3] = 1e-3 * 100  # a dead code, far out
    stats = quantizer(torch.randn(4, 100, 4)).stats
    quantizer.update(stats)
    fresh = quantizer.table()[3].clone()
    assert fresh.norm() < 10
    assert quantizer.counts[3] > 0.5
    quantizer.update({"counts": torch.ones(8), "sums": quantizer.table().clone(), "drawn": torch.full((8, 6), -1.0)})
    torch.testing.assert_close(quantizer.table()[3], fresh, rtol=1e-3, atol=1e-3)


def test_micro_batches_and_one_update_equal_one_big_batch():
    one, many = (EMAVQ(dim=4, codebook_size=16, restart_below=0.5, decay=0.5) for _ in range(2))
    many.load_state_dict(one.state_dict())
    latents = torch.randn(6, 10, 4) + 3
    for _ in range(3):
        one.update(one(latents).stats)
        parts = [many(part).stats for part in latents.split(2)]
        many.update(together(parts))
    torch.testing.assert_close(one.table(), many.table())
    assert one(latents).ids.unique().numel() > 1


def test_start_puts_every_code_to_use_and_the_next_update_keeps_it():
    quantizer = EMAVQ(dim=8, codebook_size=128, kmeans_start=True)
    latents = torch.randn(2000, 8) * 0.1 + 1
    quantizer.start(latents)
    quantized = quantizer(latents[None])
    assert quantized.ids.unique().numel() == 128
    error = quantized.losses["commit"].value
    assert error < 0.1**2
    quantizer.update(quantized.stats)
    assert quantizer(latents[None]).losses["commit"].value <= error * 1.01


def test_a_given_table_is_the_codebook_until_it_learns():
    quantizer, table = EMAVQ(dim=3, codebook_size=4, restart_below=0.1), torch.randn(4, 3)
    for _ in range(2):
        quantizer.update(quantizer(torch.randn(1, 50, 3)).stats)
    quantizer.set_table(table)
    torch.testing.assert_close(quantizer.table(), table)
    assert quantizer(table[None]).ids.flatten().tolist() == [0, 1, 2, 3]
    assert torch.equal(quantizer.counts, torch.ones(4))
    assert torch.equal(quantizer.usage, torch.full((4,), 0.25))
    for wrong, message in ((table[:3], "must be 4 x 3 .*got 3 x 3"), (table / 0, "must be finite")):
        with pytest.raises(ValueError, match=message):
            quantizer.set_table(wrong)


def test_evaluation_gathers_no_statistics():
    assert not EMAVQ(dim=4, codebook_size=8).eval()(torch.randn(1, 5, 4)).stats


@pytest.mark.parametrize("wrong", [{"dim": 0}, {"decay": 1.0}, {"restart_below": -0.5}, {"commit_weight": -1.0}])
def test_settings_out_of_range_are_refused_with_their_value(wrong):
    with pytest.raises(ValueError, match=r"must (be|not be) .*got.*" + str(next(iter(wrong.values())))):
        EMAVQ(**({"dim": 4, "codebook_size": 8} | wrong))
