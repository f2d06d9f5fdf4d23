"""What only VQ promises."""

import copy

import pytest
import torch
import torch.nn.functional as F
from quantizers.contract import together

from imtok.quantizers.attended import distance_entropies
from imtok.quantizers.vq import VQ


@pytest.mark.parametrize("normalize", [True, False])
def test_the_chosen_code_is_the_nearest(normalize):
    quantizer = VQ(dim=8, codebook_size=3000, normalize=normalize)
    torch.nn.init.normal_(quantizer.weight)
    latents = torch.randn(3, 400, 8)
    ids = quantizer(latents).ids[..., 0].flatten()
    points, table = latents.flatten(0, 1).double(), quantizer.weight.double()
    if normalize:
        points, table = F.normalize(points, dim=-1), F.normalize(table, dim=-1)
    distances = (points[:, None] - table).square().sum(-1)
    chosen = distances[torch.arange(len(ids)), ids]
    torch.testing.assert_close(chosen, distances.min(-1).values, rtol=1e-5, atol=1e-6)
    assert (ids == distances.argmin(-1)).float().mean() > 0.999


def test_equal_codes_give_the_lowest_id():
    quantizer = VQ(dim=4, codebook_size=5000, normalize=False)
    torch.nn.init.ones_(quantizer.weight)
    assert not quantizer(torch.randn(1, 50, 4)).ids.any()


def test_losses_follow_their_formulas_and_each_moves_only_its_side():
    quantizer = VQ(dim=4, codebook_size=16, normalize=False).double()
    latents = torch.randn(2, 5, 4, dtype=torch.float64, requires_grad=True)
    quantized = quantizer(latents)
    codes = quantizer.weight[quantized.ids[..., 0]]
    mean = (codes - latents).square().mean()
    for name in ("codebook", "commit"):
        torch.testing.assert_close(quantized.losses[name].value, mean)
    (to_table,) = torch.autograd.grad(quantized.losses["codebook"].value, quantizer.weight, retain_graph=True)
    (to_latents,) = torch.autograd.grad(quantized.losses["commit"].value, latents, retain_graph=True)
    assert torch.autograd.grad(quantized.losses["codebook"].value, latents, allow_unused=True) == (None,)
    quantized = quantizer(latents)
    assert torch.autograd.grad(quantized.losses["commit"].value, quantizer.weight, allow_unused=True) == (None,)
    expected = torch.zeros_like(to_table)
    expected.index_add_(0, quantized.ids.flatten(), 2 / 40 * (codes - latents).detach().flatten(0, 1))
    torch.testing.assert_close(to_table, expected)
    torch.testing.assert_close(to_latents, (2 / 40 * (latents - codes)).detach())


def test_the_weights_stand_on_their_own_sides():
    quantizer = VQ(dim=4, codebook_size=16, codebook_weight=0.75, commit_weight=0.125)
    losses = quantizer(torch.randn(2, 5, 4)).losses
    assert (losses["codebook"].weight, losses["commit"].weight) == (0.75, 0.125)


def test_the_gradient_passes_straight_through():
    quantizer = VQ(dim=4, codebook_size=16, normalize=False)
    latents, direction = torch.randn(2, 5, 4, requires_grad=True), torch.randn(2, 5, 4)
    (quantizer(latents).latents * direction).sum().backward()
    torch.testing.assert_close(latents.grad, direction)


def test_unit_length_codes_have_unit_length():
    quantizer = VQ(dim=8, codebook_size=64)
    torch.testing.assert_close(quantizer(torch.randn(2, 5, 8)).latents.norm(dim=-1), torch.ones(2, 5))
    torch.testing.assert_close(quantizer.codebook()[0].norm(dim=-1), torch.ones(64))


def test_entropy_terms_equal_the_textbook_form():
    quantizer = VQ(dim=4, codebook_size=32, entropy_weight=0.1, temperature=0.5).double()
    latents = torch.randn(3, 50, 4, dtype=torch.float64, requires_grad=True)
    losses = quantizer(latents).losses
    points = F.normalize(latents, dim=-1).flatten(0, 1)
    table = F.normalize(quantizer.weight, dim=-1)
    probabilities = (-(points[:, None] - table).square().sum(-1) / 0.5).softmax(-1)
    per_token = torch.special.entr(probabilities).sum(-1).mean()
    of_mean = torch.special.entr(probabilities.mean(0)).sum()
    torch.testing.assert_close(losses["entropy_token"].value, per_token)
    torch.testing.assert_close(losses["entropy_codebook"].value, of_mean)
    assert (losses["entropy_token"].weight, losses["entropy_codebook"].weight) == (0.1, -0.1)
    assert set(quantizer.eval()(latents).losses) == {"codebook", "commit"}
    for wanted in (latents, quantizer.weight):
        (ours,) = torch.autograd.grad(
            losses["entropy_token"].value - losses["entropy_codebook"].value, wanted, retain_graph=True
        )
        (naive,) = torch.autograd.grad(per_token - of_mean, wanted, retain_graph=True)
        torch.testing.assert_close(ours, naive, rtol=1e-9, atol=1e-12)


def test_an_entropy_of_weight_zero_is_not_computed():
    assert set(VQ(dim=4, codebook_size=8)(torch.randn(1, 4, 4)).losses) == {"codebook", "commit"}


def test_statistics_add_up_over_batches():
    quantizer = VQ(dim=4, codebook_size=16, restart_below=0.1)
    latents = torch.randn(6, 10, 4)
    whole, parts = quantizer(latents).stats, [quantizer(part).stats for part in latents.split([1, 5])]
    merged = together(parts)
    for name, value in whole.items():
        assert torch.equal(value, merged[name]), name
    assert whole["counts"].sum() == 60


def test_micro_batches_and_one_update_equal_one_big_batch():
    one, many = (VQ(dim=4, codebook_size=16, restart_below=0.5, usage_decay=0.5) for _ in range(2))
    many.load_state_dict(one.state_dict())
    latents = torch.randn(6, 10, 4) + 3
    for _ in range(3):
        one.update(one(latents).stats)
        parts = [many(part).stats for part in latents.split(2)]
        many.update(together(parts))
    torch.testing.assert_close(one.weight, many.weight)
    assert torch.equal(one(latents).ids, many(latents).ids)
    assert one(latents).ids.unique().numel() > 1


def test_a_collapsed_codebook_recovers_by_restarts():
    quantizer = VQ(dim=4, codebook_size=64, restart_below=0.1, usage_decay=0.9)
    with torch.no_grad():
        quantizer.weight.copy_(torch.tensor([0.0, 0, 0, -1]).expand(64, 4))
        quantizer.weight[0] = torch.tensor([0.0, 0, 0, 1])
    latents = F.normalize(torch.randn(8, 256, 4), dim=-1)
    assert quantizer(latents).ids.unique().numel() <= 2
    before = quantizer(latents).losses["codebook"].value
    for _ in range(60):
        quantizer.update(quantizer(latents).stats)
    after = quantizer(latents)
    assert after.ids.unique().numel() > 56
    assert after.losses["codebook"].value < before / 4


def test_codes_in_use_are_not_restarted():
    quantizer = VQ(dim=4, codebook_size=8, restart_below=0.1)
    latents = quantizer.codebook()[0].repeat(4, 1)[None]
    before = quantizer.weight.clone()
    for _ in range(20):
        quantizer.update(quantizer(latents).stats)
    assert torch.equal(quantizer.weight, before)


def test_start_puts_every_code_to_use():
    quantizer = VQ(dim=8, codebook_size=128, kmeans_start=True)
    latents = torch.randn(2000, 8) * 0.1 + 1
    before = quantizer(latents[None]).losses["codebook"].value
    quantizer.start(latents)
    quantized = quantizer(latents[None])
    assert quantized.ids.unique().numel() == 128
    assert quantized.losses["codebook"].value < before / 10
    again = copy.deepcopy(quantizer)
    again.start(latents)
    assert torch.equal(again.weight, quantizer.weight)


def test_start_works_with_fewer_latents_than_codes():
    quantizer = VQ(dim=8, codebook_size=128, kmeans_start=True)
    quantizer.start(torch.randn(50, 8))
    assert torch.isfinite(quantizer.weight).all()
    assert quantizer.weight.unique(dim=0).shape[0] == 128


def test_start_is_skipped_where_it_is_not_wanted():
    quantizer = VQ(dim=8, codebook_size=128)
    before = quantizer.weight.clone()
    quantizer.start(torch.randn(500, 8))
    assert torch.equal(quantizer.weight, before)


@pytest.mark.parametrize(
    "wrong",
    [
        {"dim": 0},
        {"codebook_size": 0},
        {"temperature": 0.0},
        {"restart_below": 1.0},
        {"usage_decay": -0.1},
        {"commit_weight": -1.0},
    ],
)
def test_settings_out_of_range_are_refused_with_their_value(wrong):
    with pytest.raises(ValueError, match=r"must (be|not be) .*got.*" + str(next(iter(wrong.values())))):
        VQ(**({"dim": 4, "codebook_size": 8} | wrong))


@pytest.mark.parametrize("size", [1e-3, 1.0, 300.0])
def test_entropies_and_gradients_are_exact_however_far_the_codes(size):
    """Assignments at low temperatures are mostly too small for a normal number in float32."""
    latents = (size * torch.randn(2, 40, 6)).double().requires_grad_()
    table = (size * torch.randn(50, 6)).double().requires_grad_()
    keep = torch.rand(2, 40) < 0.7
    logs = (-torch.cdist(latents[keep], table).square() / 0.01).log_softmax(-1)
    mean = logs.exp().mean(0)
    wanted = -(logs.exp() * logs).sum(-1).mean() + 3 * (mean * mean.clamp_min(1e-300).log()).sum()
    expected = torch.autograd.grad(wanted, (latents, table))
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 2e-4)):
        points, codes = (part.detach().to(dtype).requires_grad_() for part in (latents, table))
        per_token, of_mean = distance_entropies(points, codes, keep, 0.01)
        found = per_token - 3 * of_mean
        torch.testing.assert_close(found.double(), wanted, rtol=tolerance, atol=tolerance)
        for ours, theirs in zip(torch.autograd.grad(found, (points, codes)), expected, strict=True):
            most = 10 * tolerance * theirs.abs().max().item() + 1e-20
            torch.testing.assert_close(ours.double(), theirs, rtol=tolerance, atol=most)
