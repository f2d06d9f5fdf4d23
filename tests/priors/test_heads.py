"""How ids go into a prior and come out."""

import math

import pytest
import torch
from torch.nn import functional as F

from imtok.priors.heads import BitsHead, OrderedHead, ParallelHead
from imtok.priors.sampling import Sampling

SIZES = (8, 4)


def heads(sizes=SIZES, width=16):
    torch.manual_seed(0)
    return [ParallelHead(sizes, width), OrderedHead(sizes, width, depth=1, heads=2), BitsHead(sizes, width)]


@pytest.mark.parametrize("head", heads(), ids=lambda head: type(head).__name__)
def test_the_probabilities_of_all_tokens_add_up_to_one(head):
    every = torch.cartesian_prod(torch.arange(8), torch.arange(4))[None]  # 1 32 2
    hidden = torch.randn(1, 1, 16).expand(1, 32, 16)
    total = torch.exp(-head.nats(hidden, every).sum(-1)).sum()
    assert total.item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("head", heads(), ids=lambda head: type(head).__name__)
def test_a_drawn_token_has_the_probability_that_is_said(head):
    hidden, uniform = torch.randn(5, 3, 16), torch.rand(5, 3, head.draws, dtype=torch.float64)
    ids, likely = head.sample(hidden, None, uniform, Sampling())
    torch.testing.assert_close(-head.nats(hidden, ids).sum(-1).double(), likely, atol=1e-5, rtol=0)


@pytest.mark.parametrize("head", heads((4, 2)), ids=lambda head: type(head).__name__)
def test_tokens_are_drawn_as_often_as_is_said(head):
    torch.manual_seed(1)
    for part in head.parameters():
        torch.nn.init.normal_(part, std=0.5)
    hidden = torch.randn(1, 1, 16).expand(20_000, 1, 16)
    uniform = torch.rand(20_000, 1, head.draws, dtype=torch.float64)
    with torch.no_grad():
        ids, _ = head.sample(hidden, None, uniform, Sampling())
        every = torch.cartesian_prod(torch.arange(4), torch.arange(2))[None]
        wanted = torch.exp(-head.nats(hidden[:8].transpose(0, 1), every).sum(-1))[0]
    found = torch.bincount(ids[:, 0, 0] * 2 + ids[:, 0, 1], minlength=8) / 20_000
    torch.testing.assert_close(found, wanted, atol=0.015, rtol=0)


def test_a_head_of_bits_is_the_softmax_over_all_codes_where_bits_are_independent():
    torch.manual_seed(0)
    head = BitsHead((2**10,), width=16)
    hidden = torch.randn(2, 3, 16)
    # each code's logit is the sum of its bits' logits
    bits = torch.arange(2**10)[:, None] >> torch.arange(10) & 1
    logits = head.logits(hidden) @ bits.float().T  # 2 3 1024
    ids = torch.randint(2**10, (2, 3, 1))
    softmax = F.cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction="none").view(2, 3, 1)
    torch.testing.assert_close(head.nats(hidden, ids), softmax, atol=1e-5, rtol=0)


def test_bits_go_round():
    head = BitsHead((2**18, 2), width=4)
    ids = torch.tensor([[[2**18 - 1, 0], [12_345, 1]]])
    assert head._ids_of(head._bits_of(ids)).tolist() == ids.tolist()


def test_a_head_of_bits_refuses_other_codes_and_choices_of_whole_ids():
    with pytest.raises(ValueError, match="powers of two"):
        BitsHead((1000,), width=8)
    with pytest.raises(ValueError, match="top_k and top_p"):
        BitsHead((8,), width=8).require(Sampling(top_k=3))


def test_later_slots_of_an_ordered_head_read_the_earlier_ones_alone():
    head = OrderedHead((5, 5, 5), width=16, depth=1, heads=2)
    hidden = torch.randn(1, 1, 16)
    nats = [head.nats(hidden, torch.tensor([[ids]])) for ids in ([1, 2, 3], [1, 2, 4], [1, 0, 3], [0, 2, 3])]
    assert torch.equal(nats[0][..., :2], nats[1][..., :2])
    assert torch.equal(nats[0][..., 0], nats[2][..., 0])
    assert not torch.equal(nats[0][..., 2], nats[2][..., 2])
    assert not torch.equal(nats[0][..., 1], nats[3][..., 1])


@pytest.mark.parametrize("head", heads(), ids=lambda head: type(head).__name__)
def test_guidance_of_two_goes_as_far_again(head):
    told, plain = torch.randn(1, 1, 16), torch.randn(1, 1, 16)
    uniform = torch.zeros(1, 1, head.draws, dtype=torch.float64)
    same = head.sample(told, told, uniform, Sampling(guidance=2))[1]
    torch.testing.assert_close(same, head.sample(told, None, uniform, Sampling())[1])
    assert not torch.equal(head.sample(told, plain, uniform, Sampling(guidance=2))[1], same)


def test_a_temperature_of_nearly_zero_takes_the_likeliest_id():
    head = ParallelHead((8,), width=16)
    hidden = torch.randn(4, 2, 16)
    ids, likely = head.sample(hidden, None, torch.rand(4, 2, 1, dtype=torch.float64), Sampling(temperature=1e-6))
    assert torch.equal(ids[..., 0], head.logits(hidden).argmax(-1))
    assert math.isclose(likely.sum().item(), 0, abs_tol=1e-6)
