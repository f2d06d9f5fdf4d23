"""What all sign codes promise: bits, slots, tables and neighbours."""

import itertools

import pytest
import torch

from imtok.quantizers.binary import Binary
from imtok.quantizers.bsq import BSQ
from imtok.quantizers.gq import GQ
from imtok.quantizers.lfq import LFQ
from imtok.quantizers.signs import bits_to_ids, ids_to_bits

KINDS = [LFQ, BSQ, Binary, lambda slot_bits: GQ(len(slot_bits), slot_bits[0])]


def test_the_first_channel_is_the_least_significant_digit():
    signs = torch.tensor([[[1.0, -1, -1, -1], [-1, -1, -1, 1], [1, 1, -1, -1]]])
    assert LFQ([4])(signs).ids[0, :, 0].tolist() == [1, 8, 3]
    assert LFQ([1, 3])(signs).ids[0].tolist() == [[1, 0], [0, 4], [1, 1]]


@pytest.mark.parametrize("kind", KINDS)
def test_the_sign_of_zero_is_negative(kind):
    zeros = torch.tensor([[[0.0, -0.0, 1e-30, -1e-30]]])
    assert kind([4]).eval()(zeros).ids.item() == 0b0100


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("slot_bits", [[4, 4], [6, 6]])
def test_every_code_encodes_to_its_own_id(kind, slot_bits):
    quantizer = kind(slot_bits).eval()
    ids = torch.tensor(list(itertools.product(*map(range, quantizer.vocab_sizes))))[None]
    codes = quantizer.decode(ids)
    assert codes[0].unique(dim=0).shape[0] == 2 ** sum(slot_bits)
    assert torch.equal(quantizer(codes).ids, ids)
    assert torch.equal(quantizer(codes).latents, codes)


@pytest.mark.parametrize("slot_bits", [[18], [6, 12], [9, 9], [20, 20, 20, 4]])
def test_ids_and_bits_are_inverse(slot_bits):
    bits = torch.rand(3, 50, sum(slot_bits)) < 0.5
    bits[0, 0], bits[0, 1] = True, False
    ids = bits_to_ids(bits, slot_bits)
    assert torch.equal(ids_to_bits(ids, slot_bits), bits)
    assert ids[0, 0].tolist() == [2**size - 1 for size in slot_bits]


def test_slots_change_the_ids_and_not_the_codes():
    latents = torch.randn(2, 30, 18)
    one, two = LFQ([18])(latents), LFQ([6, 12])(latents)
    assert torch.equal(one.latents, two.latents)
    assert torch.equal(one.ids[..., 0], two.ids[..., 0] + 64 * two.ids[..., 1])
    for name in one.losses:
        assert torch.equal(one.losses[name].value, two.losses[name].value)


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_slots_stand_for_the_first_channels(kind):
    quantizer = kind([4, 4, 4]).eval()
    quantized = quantizer(torch.randn(2, 5, 12))
    for slots in range(4):
        prefix = quantizer.decode(quantized.ids, slots=slots)
        assert torch.equal(prefix[..., : 4 * slots], quantized.latents[..., : 4 * slots])
        assert not prefix[..., 4 * slots :].any()
        assert torch.equal(prefix, quantizer.decode(quantized.ids[..., :slots], slots=slots))


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_learned_or_stored(kind):
    assert not list(kind([9, 9]).parameters())
    assert not kind([9, 9]).state_dict()


def test_neighbours_come_by_number_of_flipped_bits():
    quantizer, ids = LFQ([6]), torch.randint(64, (1, 20, 1))
    near = quantizer.neighbours(ids, 64)
    table = quantizer.codebook()[0]
    flipped = (table[near] != table[ids][..., None, :]).sum(-1)
    assert torch.equal(near.sort(-1).values, torch.arange(64).expand_as(near))
    assert (flipped.diff(dim=-1) >= 0).all()
    assert near[..., 1].equal(ids ^ 1)  # the first channel flips first


def test_neighbours_of_a_large_vocabulary_are_one_flip_away():
    quantizer, ids = LFQ([18]), torch.randint(2**18, (2, 500, 1))
    flips = quantizer.neighbours(ids, 19) ^ ids[..., None]
    assert torch.equal(flips[0, 0, 0].sort().values, torch.tensor([0] + [1 << channel for channel in range(18)]))


def test_neighbours_are_limited_by_the_smallest_slot():
    with pytest.raises(ValueError, match="between 1 and the vocabulary 8, got 9"):
        LFQ([3, 9]).neighbours(torch.zeros(1, 1, 2, dtype=torch.long), 9)


@pytest.mark.parametrize("slot_bits", [[], [0], [4, -1], [21]])
@pytest.mark.parametrize("kind", [LFQ, BSQ, Binary])
def test_bad_slots_are_refused(kind, slot_bits):
    with pytest.raises(ValueError, match=r"slot_bits must be a list of whole numbers from 1 to 20, got \["):
        kind(slot_bits)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_half_precision_gives_the_ids_of_the_same_numbers_in_float32(kind, dtype):
    latents, quantizer = torch.randn(2, 200, 36).to(dtype), kind([9] * 4).eval()
    assert torch.equal(quantizer(latents).ids, quantizer(latents.float()).ids)
