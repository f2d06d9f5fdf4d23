"""Quantizers inside quantizers: what must survive any nesting (the contract tests run over these as well)."""

import copy

import pytest
import torch
import torch.nn.functional as F
from quantizers.contract import NESTED, build, length, together, without_last_bits

from imtok.quantizers.fsq import FSQ
from imtok.quantizers.product import Product
from imtok.quantizers.residual import Residual
from imtok.quantizers.vq import VQ


@pytest.fixture(params=NESTED)
def quantizer(request):
    return build(request.param)


@pytest.fixture(params=[name for name in NESTED if not build(name).stochastic])
def certain(request):
    """One whose ids are not drawn at random in training."""
    return build(request.param)


def total(quantized):
    return sum(value * weight for value, weight in quantized.losses.values())


def test_a_product_of_residuals_is_the_residuals_side_by_side():
    grid, table = FSQ([5, 3]), VQ(dim=3, codebook_size=16, normalize=False)
    torch.nn.init.normal_(table.weight)
    quantizer, latents = (
        Product([Residual([grid], depth=2, ratio=0.25), Residual([table], depth=3)]),
        torch.randn(2, 7, 5),
    )
    first = grid(latents[..., :2])
    second = grid((latents[..., :2] - first.latents) / 0.25)
    rest, ids, codes = latents[..., 2:], [], 0
    for _ in range(3):
        one = table(rest)
        rest, codes = rest - one.latents, codes + one.latents
        ids.append(one.ids)
    quantized = quantizer(latents)
    assert torch.equal(quantized.ids, torch.cat([first.ids, second.ids, *ids], -1))
    expected = torch.cat([first.latents + second.latents * 0.25, codes], -1)
    torch.testing.assert_close(quantized.latents, expected)
    assert quantizer.vocab_sizes == (15, 15, 16, 16, 16)


def test_micro_batches_and_one_update_equal_one_big_batch(certain):
    one, many = certain, copy.deepcopy(certain)
    latents = torch.randn(6, length(certain), certain.dim) + 1
    for _ in range(3):
        whole, parts = one(latents).stats, [many(part).stats for part in latents.split([1, 3, 2])]
        assert whole
        added = together(parts)
        torch.testing.assert_close(without_last_bits(added), without_last_bits(whole))
        one.update(whole)
        many.update(added)
    torch.testing.assert_close(one.state_dict(), many.state_dict())
    assert torch.equal(one(latents).ids, many(latents).ids)


def test_counts_are_those_of_the_ids(quantizer):
    quantized = quantizer(torch.randn(4, length(quantizer), quantizer.dim))
    counts = [value for name, value in quantized.stats.items() if name.endswith("counts")]
    tables = sum(isinstance(module, VQ) for module in quantizer.modules())
    assert len(counts) == tables
    tokens = sum(int(count.sum()) for count in counts)
    grid_slots = sum(size in (8, 25) for size in quantizer.vocab_sizes)  # those without a table
    assert tokens == quantized.ids[..., grid_slots:].numel()


def test_the_first_slots_decode_without_regard_to_the_others(quantizer):
    latents = torch.randn(2, length(quantizer), quantizer.dim)
    ids, other = quantizer(latents).ids, quantizer(latents.flip(0)).ids
    slots = len(quantizer.vocab_sizes)
    assert torch.equal(quantizer.decode(ids, slots=slots), quantizer.decode(ids))
    for count in range(1, slots):
        shorter = quantizer.decode(ids, slots=count)
        assert not torch.equal(shorter, quantizer.decode(ids))
        mixed = torch.cat([ids[..., :count], other[..., count:]], -1)
        assert torch.equal(quantizer.decode(mixed, slots=count), shorter)


def test_soft_decode_of_certain_ids_is_decode_and_it_is_affine(quantizer):
    one, two = (quantizer(torch.randn(2, length(quantizer), quantizer.dim)).ids for _ in range(2))
    sure = [
        [F.one_hot(ids[..., slot], size).float() for slot, size in enumerate(quantizer.vocab_sizes)]
        for ids in (one, two)
    ]
    torch.testing.assert_close(quantizer.soft_decode(sure[0]), quantizer.decode(one))
    mixed = quantizer.soft_decode([0.3 * a + 0.7 * b for a, b in zip(*sure, strict=True)])
    torch.testing.assert_close(mixed, 0.3 * quantizer.decode(one) + 0.7 * quantizer.decode(two))


def test_all_that_learns_learns_by_the_losses(quantizer):
    quantizer.start(torch.randn(50 * length(quantizer), quantizer.dim))
    latents = torch.randn(50, length(quantizer), quantizer.dim)
    optimizer = torch.optim.Adam(quantizer.parameters(), lr=0.01)
    before = (quantizer(latents).latents - latents).square().mean().item()
    for _ in range(30):
        optimizer.zero_grad()
        total(quantizer(latents)).backward()
        optimizer.step()
    assert (quantizer(latents).latents - latents).square().mean().item() < 0.9 * before
