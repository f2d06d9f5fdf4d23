"""Packing slots into one number, and other projects' bit orders."""

import math

import pytest
import torch

from imtok.quantizers.lfq import LFQ
from imtok.quantizers.packing import pack, reverse_bits, unpack

LAYOUTS = [(64, 4096), (256,) * 7, (8, 5, 5, 5), (2**31, 2**31), (3,), (2**20, 2**20, 2**20, 4)]


@pytest.mark.parametrize("sizes", LAYOUTS)
def test_unpack_inverts_pack(sizes):
    ids = torch.stack([torch.randint(size, (2, 300)) for size in sizes], dim=-1)
    ids[0, 0] = torch.tensor(sizes) - 1
    ids[0, 1] = 0
    packed = pack(ids, sizes)
    assert torch.equal(unpack(packed, sizes), ids)
    assert packed[0, 0].item() == math.prod(sizes) - 1
    assert packed[0, 1].item() == 0


def test_pack_is_one_to_one_and_onto():
    numbers = torch.arange(1000)
    assert torch.equal(pack(unpack(numbers, (8, 5, 25)), (8, 5, 25)), numbers)


def test_the_first_slot_is_the_least_significant_digit():
    assert pack(torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1]]), (8, 5, 7)).tolist() == [1, 8, 40]


def test_packed_slots_of_a_sign_code_are_its_single_slot():
    latents = torch.randn(2, 30, 18)
    assert torch.equal(pack(LFQ([6, 12])(latents).ids, (64, 4096)), LFQ([18])(latents).ids[..., 0])


@pytest.mark.parametrize("sizes", [(2**32, 2**31), (256,) * 8, (2**62, 2)])
def test_more_than_62_bits_are_refused(sizes):
    with pytest.raises(ValueError, match=r"must be at most 2\^62 to be packed, got 2\^6[34]"):
        pack(torch.zeros(1, len(sizes), dtype=torch.long), sizes)
    with pytest.raises(ValueError, match=r"must be at most 2\^62"):
        unpack(torch.zeros(1, dtype=torch.long), sizes)


def test_numbers_outside_the_vocabulary_are_refused():
    with pytest.raises(ValueError, match=r"ids must lie in vocabularies of \[4, 4\], got 0 to 4"):
        pack(torch.tensor([[0, 4]]), (4, 4))
    with pytest.raises(ValueError, match=r"ids must have 2 slots"):
        pack(torch.tensor([[0]]), (4, 4))
    with pytest.raises(ValueError, match=r"packed ids must lie in \[0, 16\), got -1 to 16"):
        unpack(torch.tensor([-1, 16]), (4, 4))


def test_golden_vector_of_both_bit_orders():
    ids = LFQ([4])(torch.tensor([[[1.0, -1, -1, -1]]])).ids
    assert ids.item() == 1
    assert reverse_bits(ids, [4]).item() == 8


@pytest.mark.parametrize("slot_bits", [[18], [6, 12], [9, 9, 9, 9]])
def test_reversed_ids_count_from_the_most_significant_channel(slot_bits):
    latents = torch.randn(2, 50, sum(slot_bits))
    ids = LFQ(slot_bits)(latents).ids
    expected = [
        ((part > 0).long() * 2 ** torch.arange(part.shape[-1] - 1, -1, -1)).sum(-1)
        for part in latents.split(slot_bits, dim=-1)
    ]
    assert torch.equal(reverse_bits(ids, slot_bits), torch.stack(expected, dim=-1))
    assert torch.equal(reverse_bits(reverse_bits(ids, slot_bits), slot_bits), ids)
