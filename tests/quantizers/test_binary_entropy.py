"""Entropies of independent bits, against the softmax over all codes that they stand for."""

import math

import pytest
import torch

from imtok.quantizers import entropy
from imtok.quantizers.attended import distance_entropies
from imtok.quantizers.entropy import bit_assignments, bit_entropies, entropy_groups
from imtok.quantizers.signs import ids_to_bits


def naive(log_odds, keep=None):
    """Both entropies by the softmax over all sign codes."""
    bits = log_odds.shape[-1]
    codes = ids_to_bits(torch.arange(2**bits)[:, None], [bits]).to(log_odds.dtype)
    tokens = log_odds.flatten(0, 1) if keep is None else log_odds[keep]
    probabilities = (tokens @ codes.T).softmax(-1)
    return torch.special.entr(probabilities).sum(-1).mean(), torch.special.entr(probabilities.mean(0)).sum()


@pytest.mark.parametrize("bits", range(1, 11))
def test_one_group_equals_the_softmax_over_all_codes(bits):
    log_odds = torch.randn(2, 30, bits, dtype=torch.float64, requires_grad=True)
    for ours, textbook in zip(bit_entropies(log_odds, None, [bits]), naive(log_odds), strict=True):
        torch.testing.assert_close(ours, textbook, rtol=1e-12, atol=1e-12)
        gradients = [torch.autograd.grad(value, log_odds, retain_graph=True)[0] for value in (ours, textbook)]
        torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-14)


def test_a_mask_leaves_tokens_out():
    log_odds, keep = torch.randn(2, 30, 7, dtype=torch.float64), torch.rand(2, 30) < 0.4
    for ours, textbook in zip(bit_entropies(log_odds, keep, [7]), naive(log_odds, keep), strict=True):
        torch.testing.assert_close(ours, textbook)


def test_blocks_of_tokens_change_nothing(monkeypatch):
    log_odds = torch.randn(2, 50, 9, dtype=torch.float64, requires_grad=True)
    whole = bit_entropies(log_odds, None, [5, 4])
    monkeypatch.setattr(entropy, "BLOCK", 100)
    for one, many in zip(whole, bit_entropies(log_odds, None, [5, 4]), strict=True):
        torch.testing.assert_close(one, many)
        torch.testing.assert_close(
            *(torch.autograd.grad(value, log_odds, retain_graph=True)[0] for value in (one, many))
        )


def test_the_assignment_of_a_group_reads_its_first_channel_as_the_least_significant_digit():
    certain = torch.tensor([[[1.0, -1, -1, -1, 1, -1, -1]]]) * 1e4
    _, means = bit_assignments(certain, None, [4, 3])
    assert [mean.argmax().item() for mean in means] == [1, 1]
    assert [mean.max().item() for mean in means] == [1, 1]


def test_groups_bound_the_exact_entropy_from_above():
    log_odds = 3 * torch.randn(1, 40, 10, dtype=torch.float64)
    chain = [bit_entropies(log_odds, None, groups)[1] for groups in ([10], [5, 5], [5, 3, 2], [1] * 10)]
    assert chain[0] < chain[1] < chain[2] < chain[3] < 10 * math.log(2)


def test_the_entropy_of_a_token_does_not_depend_on_groups():
    log_odds = torch.randn(2, 20, 10, dtype=torch.float64)
    values = [bit_entropies(log_odds, None, groups)[0] for groups in ([10], [5, 5], [1] * 10)]
    torch.testing.assert_close(values[0], values[1])
    torch.testing.assert_close(values[0], values[2])


@pytest.mark.parametrize("bits", [14, 18, 20])
def test_undecided_bits_have_the_entropy_of_the_whole_vocabulary(bits):
    per_token, of_mean = bit_entropies(torch.zeros(1, 3, bits), None, [bits])
    assert per_token.item() == pytest.approx(bits * math.log(2), rel=1e-6)
    assert of_mean.item() == pytest.approx(bits * math.log(2), rel=1e-5)


def test_decided_bits_have_the_entropy_of_the_counts():
    ids = torch.tensor([3, 3, 3, 3, 70_000, 70_000, 200_000, 9])
    log_odds = 1e6 * (2.0 * ids_to_bits(ids[:, None], [18]) - 1)[None]
    per_token, of_mean = bit_entropies(log_odds, None, [18])
    assert per_token.item() == 0
    assert of_mean.item() == pytest.approx(1.75 * math.log(2), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [0.0, 1e-8, 1.0, 80.0, 1e4, 1e7])
def test_values_and_gradients_are_finite(dtype, size):
    log_odds = (size * torch.randn(2, 40, 18, dtype=dtype)).requires_grad_()
    per_token, of_mean = bit_entropies(log_odds, None, [18])
    (per_token - of_mean).backward()
    assert torch.isfinite(per_token)
    assert torch.isfinite(of_mean)
    assert torch.isfinite(log_odds.grad).all()


def test_float32_is_accurate_where_bits_are_nearly_decided():
    log_odds = torch.tensor([[[15.0, -17.0, 20.0]]])
    exact = -sum(p * math.log(p) for u in (15, 17, 20) for p in (1 / (1 + math.exp(u)), 1 / (1 + math.exp(-u))))
    assert bit_entropies(log_odds, None, [3])[0].item() == pytest.approx(exact, rel=1e-5)


def test_bits_agree_with_the_streamed_form_over_a_table():
    latents = torch.randn(2, 30, 8)
    codes = 2.0 * ids_to_bits(torch.arange(256)[:, None], [8]) - 1
    streamed = distance_entropies(latents, codes, None, 0.5)
    for ours, other in zip(bit_entropies(4 * latents / 0.5, None, [8]), streamed, strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("bits", "largest", "groups"),
    [
        (18, None, (18,)),
        (20, None, (20,)),
        (21, None, (11, 10)),
        (64, None, (11, 11, 11, 11, 10, 10)),
        (36, 9, (9,) * 4),
        (18, 1, (1,) * 18),
        (7, 12, (7,)),
    ],
)
def test_groups_are_as_equal_as_can_be(bits, largest, groups):
    assert entropy_groups(bits, largest) == groups


@pytest.mark.parametrize("largest", [0, 21])
def test_groups_of_unaffordable_size_are_refused(largest):
    with pytest.raises(ValueError, match=f"entropy_bits must be between 1 and 20, got {largest}"):
        entropy_groups(36, largest)
