"""What only a residual of quantizers promises."""

from itertools import pairwise

import pytest
import torch
from quantizers.contract import together, without_last_bits

from imtok.quantizers.fsq import FSQ
from imtok.quantizers.residual import Residual
from imtok.quantizers.vq import VQ


def vq(**changes):
    quantizer = VQ(**({"dim": 4, "codebook_size": 32, "normalize": False} | changes))
    torch.nn.init.normal_(quantizer.weight, std=0.7)
    return quantizer


def test_it_is_the_textbook_recursion_with_the_loss_of_rq_vae():
    stages, latents = [vq().double() for _ in range(3)], torch.randn(2, 10, 4, dtype=torch.float64, requires_grad=True)
    quantized = Residual(stages).double()(latents)
    rest, total, commit, codebook = latents.detach(), torch.zeros_like(latents), 0.0, 0.0
    for depth, stage in enumerate(stages):
        distances = (rest[:, :, None] - stage.weight).square().sum(-1)
        ids = distances.argmin(-1)
        assert torch.equal(quantized.ids[..., depth], ids)
        codes = stage.weight[ids]
        codebook = codebook + (codes - rest).square().mean() / 3
        rest, total = rest - codes.detach(), total + codes.detach()
        commit = commit + (latents - total).square().mean() / 3  # RQ-VAE: to every partial sum, mean over depths
    torch.testing.assert_close(quantized.latents, total)
    torch.testing.assert_close(quantized.losses["commit"].value, commit)
    torch.testing.assert_close(quantized.losses["codebook"].value, codebook)
    assert quantized.losses["commit"].weight == pytest.approx(0.25)
    (ours,) = torch.autograd.grad(quantized.losses["commit"].value, latents)
    (theirs,) = torch.autograd.grad(commit, latents)
    torch.testing.assert_close(ours, theirs)


def test_the_gradient_passes_straight_through_once():
    latents, direction = torch.randn(2, 5, 4, requires_grad=True), torch.randn(2, 5, 4)
    (Residual([vq() for _ in range(4)])(latents).latents * direction).sum().backward()
    assert torch.equal(latents.grad, direction)


def test_losses_move_only_their_own_side():
    quantizer, latents = Residual([vq()], depth=3), torch.randn(2, 5, 4, requires_grad=True)
    losses = quantizer(latents).losses
    table = quantizer.stages[0].weight
    assert torch.autograd.grad(losses["codebook"].value, latents, retain_graph=True, allow_unused=True) == (None,)
    assert torch.autograd.grad(losses["commit"].value, table, retain_graph=True, allow_unused=True) == (None,)


@pytest.mark.parametrize("shared", [True, False])
def test_the_first_slots_equal_a_quantizer_of_that_depth(shared):
    stages = [vq()] if shared else [vq() for _ in range(4)]
    quantizer, latents = Residual(stages, depth=4), torch.randn(2, 10, 4)
    ids = quantizer(latents).ids
    for depth in range(1, 5):
        shorter = Residual(stages if shared else stages[:depth], depth=depth)(latents)
        assert torch.equal(shorter.ids, ids[..., :depth])
        assert torch.equal(quantizer.decode(ids, slots=depth), shorter.latents)
    assert not quantizer.decode(ids, slots=0).any()


def test_a_stage_that_knows_zero_never_makes_the_error_larger():
    stages = [vq() for _ in range(5)]
    for stage in stages:
        stage.weight.data[7] = 0
    quantizer, latents = Residual(stages), torch.randn(2, 200, 4)
    ids = quantizer(latents).ids
    errors = torch.stack([(latents - quantizer.decode(ids, slots=depth)).norm(dim=-1) for depth in range(6)])
    assert (errors.diff(dim=0) <= 1e-6).all()
    assert errors[5].mean() < errors[1].mean() / 2


def test_a_shared_table_learns_once_from_the_residuals_of_all_depths():
    table = vq(restart_below=0.1)
    quantizer, latents = Residual([table], depth=3), torch.randn(2, 10, 4)
    quantized = quantizer(latents)
    counts = sum(torch.bincount(quantized.ids[..., depth].flatten(), minlength=32) for depth in range(3))
    assert torch.equal(quantized.stats["0.counts"], counts.float())
    quantizer.update(quantized.stats)
    assert table.restarts == 1
    (parameter,) = quantizer.parameters()
    assert parameter is table.weight


def test_shared_tables_may_be_trained_on_all_depths_from_the_start():
    quantizer, latents = Residual([vq(codebook_size=64, kmeans_start=True)], depth=4), torch.randn(2000, 4) * 3 + 1
    quantizer.start(latents)
    quantized = quantizer(latents[None])
    assert (quantized.latents - latents).square().mean() < latents.var() / 30
    assert quantized.ids.unique().numel() > 56


def test_separate_tables_start_from_what_the_tables_before_left_over():
    quantizer = Residual([vq(kmeans_start=True) for _ in range(3)])
    latents = torch.randn(2000, 4) * 3 + 1
    quantizer.start(latents)
    ids = quantizer(latents[None]).ids
    assert [ids[..., depth].unique().numel() for depth in range(3)] == [32, 32, 32]
    errors = [(quantizer.decode(ids, slots=depth) - latents).square().mean() for depth in range(4)]
    assert errors[0] > 2.5 * errors[1] > 4 * errors[2] > 5 * errors[3]


def test_each_depth_of_a_grid_divides_the_step_of_the_one_before():
    quantizer = Residual([FSQ([5, 5])], depth=4, ratio=0.25, bound=1.25)
    latents = torch.rand(1, 4000, 2) * 1.6 - 0.8
    bounded = (latents / 1.25).tanh() * 1.25
    ids = quantizer(latents).ids
    errors = [(quantizer.decode(ids, slots=depth) - bounded).square().mean().sqrt() for depth in range(1, 5)]
    assert all(finer < coarser / 2 for coarser, finer in pairwise(errors))
    assert errors[3] < 0.01
    tables = quantizer.codebook()
    torch.testing.assert_close(tables[2], tables[0] / 16)


def test_a_ratio_may_differ_between_channels():
    quantizer = Residual([FSQ([8, 5])], depth=2, ratio=[0.125, 0.25])
    first, second = quantizer.codebook()
    torch.testing.assert_close(second, first * torch.tensor([0.125, 0.25]))


def test_statistics_add_up_over_batches_and_micro_batches_equal_one_big_batch():
    one = Residual([vq(restart_below=0.5, usage_decay=0.5)], depth=3)
    many = Residual([vq(restart_below=0.5, usage_decay=0.5)], depth=3)
    many.load_state_dict(one.state_dict())
    latents = torch.randn(6, 10, 4) + 2
    for _ in range(3):
        whole, parts = one(latents).stats, [many(part).stats for part in latents.split([1, 3, 2])]
        added = together(parts)
        torch.testing.assert_close(without_last_bits(added), without_last_bits(whole))
        one.update(whole)
        many.update(added)
    torch.testing.assert_close(one.state_dict(), many.state_dict())
    assert torch.equal(one(latents).ids, many(latents).ids)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"stages": []}, "stages must be quantizers of one width"),
        ({"stages": [FSQ([5]), FSQ([5, 5])]}, r"one width and length, got \[1, 2\]"),
        ({"depth": 0}, "depth must be .* got 0"),
        ({"stages": [FSQ([5]), FSQ([5])], "depth": 3}, "depth must be .* got 3"),
        ({"ratio": 0.0}, "must be positive, got 0.0"),
        ({"bound": -1.0}, "must be positive, got 1.0 and -1.0"),
    ],
)
def test_wrong_settings_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Residual(**({"stages": [FSQ([5])]} | wrong))
