"""What only FSQ promises."""

import math

import pytest
import torch
from quantizers.contract import build

from imtok.quantizers.fsq import FSQ


@pytest.mark.parametrize("level", range(2, 33))
def test_every_number_of_levels_is_reached_in_order(level):
    quantizer = FSQ([level])
    latents = torch.linspace(-6, 6, 20_001)[None, :, None]
    quantized = quantizer(latents)
    assert quantized.ids.unique().tolist() == list(range(level))
    assert (quantized.ids[0, 1:, 0] >= quantized.ids[0, :-1, 0]).all()
    assert (quantized.latents.diff(dim=1) >= 0).all()


@pytest.mark.parametrize("level", range(2, 33))
def test_zero_stays_zero(level):
    assert FSQ([level])(torch.zeros(1, 1, 1)).latents.item() == 0


@pytest.mark.parametrize("levels", [[2, 2], [8, 5, 5], [3, 4, 7]])
def test_every_code_is_distinct_and_reached(levels):
    quantizer = FSQ(levels)
    table = quantizer.codebook()[0]
    assert table.unique(dim=0).shape[0] == quantizer.vocab_sizes[0]
    assert quantizer(3 * torch.randn(1, 50_000, quantizer.dim)).ids.unique().numel() == quantizer.vocab_sizes[0]


def test_the_first_channel_is_the_least_significant_digit():
    quantizer = FSQ([8, 5, 5])
    highest = torch.tensor([[[20.0, 0, 0], [0, 20.0, 0], [0, 0, 20.0]]])
    zero = quantizer(torch.zeros(1, 1, 3)).ids.item()
    assert zero == 4 + 2 * 8 + 2 * 40
    assert (quantizer(highest).ids[0, :, 0] - zero).tolist() == [3, 2 * 8, 2 * 40]


def test_the_gradient_is_the_slope_of_the_tanh():
    quantizer = FSQ([5]).double()
    latents = torch.linspace(-2, 2, 9, dtype=torch.float64)[None, :, None].requires_grad_()
    quantizer(latents).latents.sum().backward()
    half_width = 4 * (1 + 1e-3) / 2
    torch.testing.assert_close(latents.grad, (1 - latents.detach().tanh() ** 2) * half_width / 2)


def test_bfloat16_latents_give_the_ids_of_the_same_numbers_in_float32():
    quantizer, latents = FSQ([8, 8, 8, 5, 5, 5]), torch.randn(4, 500, 6).bfloat16()
    assert torch.equal(quantizer(latents).ids, quantizer(latents.float()).ids)


def test_neighbours_lie_one_step_away_on_the_grid():
    quantizer = FSQ([5, 5])
    middle = torch.tensor([[[12]]])
    assert sorted(quantizer.neighbours(middle, 5)[0, 0, 0].tolist()) == [7, 11, 12, 13, 17]


@pytest.mark.parametrize("levels", [[], [1], [8, 1], [2] * 63])
def test_bad_levels_are_refused(levels):
    with pytest.raises(ValueError, match="levels must be"):
        FSQ(levels)


@pytest.mark.parametrize(
    ("name", "size", "bits"),
    [
        ("fsq_240", 240, 8),
        ("fsq", 1000, 10),
        ("fsq_4375", 4375, 12),
        ("fsq_15360", 15360, 14),
        ("fsq_64000", 64000, 16),
    ],
)
def test_the_published_level_sets_are_those_of_the_paper(name, size, bits):
    quantizer = build(name)
    assert quantizer.vocab_sizes == (size,)
    assert abs(quantizer.bits_per_token - bits) < 0.2


@pytest.mark.parametrize("levels", [[2, 2], [8, 6, 5], [7, 5, 5, 5, 5]])
def test_ids_of_codes_are_those_of_the_table(levels):
    quantizer = FSQ(levels)
    ids = torch.arange(quantizer.vocab_sizes[0])[None, :, None]
    assert torch.equal(quantizer.decode(ids)[0], quantizer.codebook()[0])
    inverse = (
        (quantizer.decode(ids) * (quantizer.levels // 2)).round().long() + quantizer.levels // 2
    ) @ quantizer.places
    assert torch.equal(inverse, ids[..., 0])


def test_ids_of_a_vocabulary_beyond_float_precision_and_int32_are_exact():
    quantizer = FSQ([2] * 30 + [5] * 10)
    quantized = quantizer(3 * torch.randn(2, 50, 40))
    assert quantized.ids.max() > 2**40
    assert torch.equal(quantizer.decode(quantized.ids), quantized.latents)
    digits = [int(digit) for digit in (quantized.latents[0, 0] * quantizer.halves + quantizer.halves).round()]
    places = [math.prod(([2] * 30 + [5] * 10)[:channel]) for channel in range(40)]
    assert quantized.ids[0, 0].item() == sum(a * b for a, b in zip(digits, places, strict=True))


@pytest.mark.parametrize("level", range(2, 17))
def test_zero_and_what_is_near_it_stays_zero(level):
    quantizer = FSQ([level])
    near = torch.tensor([[[-0.01], [0.0], [0.01]]])
    assert not quantizer(near).latents.any()


def test_latents_and_gradients_follow_the_formula_of_the_paper():
    levels = [8, 6, 5, 4, 3]
    latents = torch.randn(2, 30, 5, dtype=torch.float64, requires_grad=True)
    for channel, level in enumerate(levels):
        half, offset = (level - 1) * 1.001 / 2, 0.5 * (level % 2 == 0)
        bounded = torch.tanh(latents[..., channel] + math.atanh(offset / half)) * half - offset
        ours = FSQ(levels).double()(latents).latents[..., channel]
        torch.testing.assert_close(ours, bounded.round() / (level // 2))
        slopes = [torch.autograd.grad(value.sum(), latents)[0] for value in (ours, bounded / (level // 2))]
        torch.testing.assert_close(*slopes)


@pytest.mark.parametrize("level", range(2, 33))
def test_symmetric_codes_spread_evenly_and_divide_at_the_middle(level):
    """Code and boundaries by the formula of arXiv 2411.19842."""
    quantizer = FSQ([level], symmetric=True)
    latents = torch.linspace(-6, 6, 20_000)[None, :, None]  # 0 is not among them
    quantized = quantizer(latents)
    torch.testing.assert_close(quantizer.codebook()[0][:, 0], torch.linspace(-1, 1, level))
    levels = ((level - 1) * (latents.tanh() + 1) / 2 + 0.5).floor()
    torch.testing.assert_close(quantized.latents, 2 * levels / (level - 1) - 1)
    assert torch.equal(quantized.ids[..., 0], levels[..., 0].long())
    assert quantized.ids.unique().numel() == level


def test_with_an_odd_number_of_levels_symmetric_codes_are_the_plain_ones():
    torch.testing.assert_close(FSQ([5, 7]).codebook()[0], FSQ([5, 7], symmetric=True).codebook()[0])


def test_latents_near_zero_have_all_codes_of_two_levels_only_if_these_are_symmetric():
    latents = 0.1 * torch.randn(1, 5000, 4, generator=torch.Generator().manual_seed(0))
    assert FSQ([2] * 4)(latents).ids.unique().numel() == 1
    assert FSQ([2] * 4, symmetric=True)(latents).ids.unique().numel() == 16


def test_the_gradient_of_symmetric_codes_is_that_of_the_tanh():
    latents = torch.linspace(-2, 2, 9, dtype=torch.float64)[None, :, None].requires_grad_()
    FSQ([4], symmetric=True).double()(latents).latents.sum().backward()
    torch.testing.assert_close(latents.grad, 1 - latents.detach().tanh() ** 2)
