"""A scale that is left out: the others are quantized as if it had never been there."""

import pytest
import torch
from torch.nn import functional as F

from imtok.quantizers.multiscale import MultiScale
from imtok.quantizers.vq import VQ
from imtok.regularizers.scale_dropout import OneScaleDropout

SIZES = [1, 2, 3, 4]


def scales(sizes=SIZES, **settings):
    inner = VQ(dim=4, codebook_size=32, normalize=False, codebook_weight=0.0, commit_weight=0.0)
    quantizer = MultiScale(inner, sizes, convolutions=0, **settings)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.nn.init.normal_(quantizer.quantizer.weight)
    return quantizer


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def reference(latents, table, sizes):
    """Codes and loss by hand, as TokenFlow's code quantizes the scales that are left."""
    rest = target = latents.mT.reshape(len(latents), -1, 4, 4)
    total, loss = torch.zeros_like(target), 0.0
    for size in sizes:
        small = F.interpolate(rest, (size, size), mode="area")
        ids = torch.cdist(small.flatten(2).mT, table).argmin(-1)
        codes = table[ids].mT.reshape(len(latents), -1, size, size)
        codes = F.interpolate(codes, (4, 4), mode="bicubic") if size < 4 else codes
        total, rest = total + codes, rest - codes.detach()
        loss = loss + ((total - target.detach()).square().mean() + 0.25 * (total.detach() - target).square().mean())
    straight = target + (total - target).detach()
    return straight.flatten(2).mT, loss / len(sizes)


def left_out(result, quantizer, seed):
    """What went, found by trying all."""
    left, table = OneScaleDropout(probability=1.0)(result, quantizer, 0, seeded(seed)), quantizer.quantizer.weight
    for gone in SIZES:
        codes, _ = reference(result.encoded, table, [size for size in SIZES if size != gone])
        if torch.allclose(codes, left.latents, atol=1e-5):
            return gone, left
    raise AssertionError("no scale alone makes that")


def test_any_scale_but_the_coarsest_goes_and_the_others_take_up_what_it_leaves():
    quantizer = scales()
    whole = quantizer(torch.randn(6, 16, 4))
    found = set()
    for seed in range(20):
        gone, left = left_out(whole, quantizer, seed)
        assert torch.equal(left.ids, whole.ids)
        found.add(gone)
    assert found == {2, 3, 4}
    assert quantizer.sizes == (1, 2, 3, 4)


@pytest.mark.parametrize("gone", [2, 4])
def test_losses_and_gradients_are_those_of_the_scales_that_are_left(gone):
    quantizer, direction = scales(), torch.randn(3, 16, 4)
    latents = torch.randn(3, 16, 4, requires_grad=True)
    whole = quantizer(latents)
    tried = (left_out(whole, quantizer, seed) for seed in range(99))
    left = next(left for went, left in tried if went == gone)
    losses = sum(loss.value * loss.weight for loss in left.losses.values())
    ((left.latents * direction).sum() + losses).backward()
    own, table = latents.detach().requires_grad_(), quantizer.quantizer.weight.detach().requires_grad_()
    codes, loss = reference(own, table, [size for size in SIZES if size != gone])
    ((codes * direction).sum() + loss).backward()
    torch.testing.assert_close(losses, loss)
    torch.testing.assert_close(latents.grad, own.grad)
    torch.testing.assert_close(quantizer.quantizer.weight.grad, table.grad)


def test_scales_with_gradients_of_their_own_keep_them():
    weights = {"codebook_weight": 0.0, "commit_weight": 0.0}
    quantizer, direction = scales(gradients="scales", **weights), torch.randn(3, 16, 4)
    latents = torch.randn(3, 16, 4, requires_grad=True)
    gone, left = left_out(quantizer(latents), quantizer, 0)
    (left.latents * direction).sum().backward()
    own = latents.detach().requires_grad_()
    target = own.mT.reshape(3, -1, 4, 4)
    small = [F.interpolate(target, (size, size), mode="area") for size in SIZES if size != gone]
    (sum(F.interpolate(one, (4, 4), mode="bicubic") for one in small).flatten(2).mT * direction).sum().backward()
    torch.testing.assert_close(latents.grad, own.grad)


def test_a_tenth_of_the_batches_goes_without_a_scale_and_the_global_generator_is_left_alone():
    quantizer, dropout = scales(), OneScaleDropout(probability=0.1)
    whole = quantizer(torch.randn(1, 16, 4))
    state = torch.get_rng_state()
    changed = sum(dropout(whole, quantizer, 0, seeded(seed)) is not whole for seed in range(1000))
    assert 70 < changed < 130
    assert torch.equal(torch.get_rng_state(), state)


def test_other_quantizers_are_refused():
    plain = VQ(dim=4, codebook_size=32)
    for quantizer in (plain, scales(normalize=True), scales([4])):
        with pytest.raises(ValueError, match="the quantizer must have scales, two or more, and leave the length"):
            OneScaleDropout()(quantizer(torch.randn(1, 16, 4)), quantizer, 0, seeded(0))
    with pytest.raises(ValueError, match=r"probability must be in \[0, 1\], got 2.0"):
        OneScaleDropout(2.0)
