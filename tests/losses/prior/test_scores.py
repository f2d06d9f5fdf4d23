"""Scores of codes: what goes channel by channel is the softmax over all codes."""

import pytest
import torch

from imtok.losses.prior.scores import ChannelScores, TableScores, code_scores, has_unit_codes
from imtok.quantizers.binary import Binary
from imtok.quantizers.bsq import BSQ
from imtok.quantizers.fsq import FSQ
from imtok.quantizers.gq import GQ
from imtok.quantizers.ibq import IBQ
from imtok.quantizers.lfq import LFQ
from imtok.quantizers.product import Product
from imtok.quantizers.residual import Residual
from imtok.quantizers.signs import ids_to_bits
from imtok.quantizers.vq import VQ

BY_CHANNEL = [
    FSQ([3, 4, 2, 5]),
    FSQ([2, 3, 4], symmetric=True),
    LFQ([10]),
    LFQ([4, 2]),
    BSQ([6]),
    GQ(groups=2, group_bits=3),
    Binary([7]),
]


@pytest.mark.parametrize("quantizer", BY_CHANNEL, ids=lambda one: f"{type(one).__name__}{one.dim}")
def test_channel_by_channel_it_is_the_softmax_over_all_codes(quantizer):
    quantizer, temperature = quantizer.double(), 0.7
    predicted = torch.randn(2, 5, quantizer.dim, dtype=torch.float64)
    right = quantizer(torch.randn_like(predicted))
    scores = code_scores(quantizer, temperature)
    assert isinstance(scores, ChannelScores)
    expected = TableScores(quantizer.codebook(), temperature)
    torch.testing.assert_close(scores.nats(predicted, right), expected.nats(predicted, right), rtol=1e-10, atol=1e-10)


def test_scores_of_many_bits_take_no_table():
    quantizer = GQ(groups=16, group_bits=8)  # 2^128 codes
    right = quantizer(torch.randn(1, 3, 128))
    even = code_scores(quantizer, 1.0).nats(torch.zeros(1, 3, 128), right)
    torch.testing.assert_close(even, torch.full((1, 3), 128 * torch.tensor(2.0).log()))


@pytest.mark.parametrize(
    "quantizer",
    [VQ(4, 6), IBQ(4, 6), Product([VQ(2, 3), VQ(2, 5)]), Residual([VQ(4, 3), VQ(4, 5)])],
    ids=lambda one: type(one).__name__,
)
def test_a_table_scores_by_scalar_products_with_its_codes(quantizer):
    predicted = torch.randn(2, 5, 4)
    right = quantizer(torch.randn(2, 5, 4))
    found = code_scores(quantizer, 0.5).nats(predicted, right)
    expected = torch.zeros(2, 5)
    for slot, table in enumerate(quantizer.codebook()):
        for image in range(2):
            for token in range(5):
                logits = torch.stack([predicted[image, token] @ code for code in table]) / 0.5
                expected[image, token] -= logits.log_softmax(0)[right.ids[image, token, slot]]
    torch.testing.assert_close(found, expected.detach())


@pytest.mark.parametrize("quantizer", [VQ(2, 4), FSQ([3, 2]), LFQ([2])], ids=lambda one: type(one).__name__)
def test_codes_are_drawn_as_often_as_their_scores_say(quantizer):
    torch.manual_seed(0)
    predicted = torch.tensor([0.8, -0.5]).expand(1, 20000, 2)
    drawn = code_scores(quantizer, 1.0).draw(predicted)[0]
    table = quantizer.codebook()[0].detach()
    chosen = (drawn[:, None] == table).all(-1)
    assert torch.equal(chosen.sum(-1), torch.ones(20000, dtype=torch.int64))
    counts = chosen.float().mean(0)
    torch.testing.assert_close(counts, (table @ predicted[0, 0]).softmax(-1), rtol=0, atol=0.015)


def test_no_gradient_reaches_a_table():
    quantizer = VQ(4, 6)
    predicted = torch.randn(1, 3, 4, requires_grad=True)
    code_scores(quantizer, 1.0).nats(predicted, quantizer(torch.randn(1, 3, 4))).sum().backward()
    assert predicted.grad is not None
    assert quantizer.weight.grad is None


def test_codes_of_length_one_are_known():
    unit = [VQ(4, 6, normalize=True), BSQ([6])]
    others = [VQ(4, 6, normalize=False), IBQ(4, 6), FSQ([3, 3]), LFQ([6])]
    assert [has_unit_codes(one) for one in unit + others] == [True] * 2 + [False] * 4
    for one in unit:
        torch.testing.assert_close(one.codebook()[0].norm(dim=-1), torch.ones(one.vocab_sizes[0]))


def test_bits_are_read_off_codes_as_ids_say():
    quantizer = LFQ([5])
    right = quantizer(torch.randn(2, 4, 5))
    sure = torch.where(ids_to_bits(right.ids, [5]), 50.0, -50.0)
    assert code_scores(quantizer, 1.0).nats(sure, right).max() < 1e-6
