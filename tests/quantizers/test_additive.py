"""What only additive quantization promises."""

import itertools

import pytest
import torch

from imtok.quantizers.additive import Additive
from imtok.quantizers.beam import free_search, improved
from imtok.quantizers.ema_vq import EMAVQ
from imtok.quantizers.fsq import FSQ
from imtok.quantizers.residual import Residual
from imtok.quantizers.vq import VQ


def vq(**settings):
    quantizer = VQ(**({"dim": 4, "codebook_size": 16, "normalize": False} | settings))
    torch.nn.init.normal_(quantizer.weight, std=0.7)
    return quantizer


def test_the_losses_and_their_gradients_are_those_of_vq_for_the_whole_sum():
    quantizer = Additive([vq().double() for _ in range(3)]).double()
    latents = torch.randn(2, 10, 4, dtype=torch.float64, requires_grad=True)
    quantized = quantizer(latents)
    tables = [stage.weight for stage in quantizer.stages]
    total = sum(table[quantized.ids[..., slot]] for slot, table in enumerate(tables))
    torch.testing.assert_close(quantized.latents, total)
    codebook, commit = (total - latents.detach()).square().mean(), (total.detach() - latents).square().mean()
    losses = quantized.losses
    torch.testing.assert_close(losses["codebook"].value, codebook)
    torch.testing.assert_close(losses["commit"].value, commit)
    ours = torch.autograd.grad(sum(loss.value * loss.weight for loss in losses.values()), [latents, *tables])
    theirs = torch.autograd.grad(codebook + 0.25 * commit, [latents, *tables])
    torch.testing.assert_close(ours, theirs)


def test_the_gradient_passes_straight_through_once():
    latents, direction = torch.randn(2, 5, 4, requires_grad=True), torch.randn(2, 5, 4)
    (Additive([vq() for _ in range(4)])(latents).latents * direction).sum().backward()
    assert torch.equal(latents.grad, direction)


def test_a_wide_beam_finds_the_best_of_all_sums():
    quantizer, latents = Additive([vq(codebook_size=6) for _ in range(3)], beam=6**3, rounds=0), torch.randn(1, 100, 4)
    sums = torch.stack([sum(codes) for codes in itertools.product(*(stage.weight for stage in quantizer.stages))])
    found = (quantizer(latents).latents - latents).norm(dim=-1)[0]
    torch.testing.assert_close(found, torch.cdist(latents[0], sums).min(-1).values)


def test_no_round_makes_any_error_larger_and_the_first_makes_many_smaller():
    tables, latents = [torch.randn(16, 4) for _ in range(4)], torch.randn(500, 4) * 2
    ids, errors = free_search(latents, tables, 1), []
    for rounds in range(4):
        better = improved(latents, tables, ids, rounds)
        total = sum(table[better[:, slot]] for slot, table in enumerate(tables))
        errors.append((total - latents).square().sum(-1))
    assert all((after <= before + 1e-5).all() for before, after in itertools.pairwise(errors))
    assert ((errors[1] < 0.9 * errors[0]).float().mean() > 0.2).item()


def test_codes_that_are_chosen_together_are_nearer_than_those_of_a_residual():
    stages, latents = [vq() for _ in range(4)], torch.randn(2, 200, 4)
    together, one_by_one = Additive(stages), Residual(stages)
    errors = [(q(latents).latents - latents).square().mean() for q in (together, one_by_one)]
    assert errors[0] < 0.7 * errors[1]


def test_a_table_learns_from_what_the_others_leave():
    quantizer, latents = Additive([EMAVQ(4, 16) for _ in range(2)]), torch.randn(2, 50, 4)
    quantized = quantizer(latents)
    first, second = quantizer.codebook()
    rest = latents - second[quantized.ids[..., 1]]
    sums = torch.zeros_like(first).index_add(0, quantized.ids[..., 0].flatten(), rest.flatten(0, 1))
    torch.testing.assert_close(quantized.stats["0.sums"], sums)


def test_one_table_is_vector_quantization():
    stage, latents = vq(), torch.randn(2, 20, 4)
    assert torch.equal(Additive([stage])(latents).ids, stage(latents).ids)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"stages": []}, "stages must be quantizers of one width"),
        ({"stages": [FSQ([5, 5])]}, "nearest code of one table .* got FSQ"),
        ({"beam": 0}, "beams must be at least 1"),
        ({"rounds": -1}, "rounds must not be negative, got -1"),
    ],
)
def test_wrong_settings_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Additive(**({"stages": [vq(), vq()]} | wrong))
