"""Slot and scale dropout: what some images lose, and what stays."""

import pytest
import torch

from imtok.quantizers.fsq import FSQ
from imtok.quantizers.multiscale import MultiScale
from imtok.quantizers.product import Product
from imtok.quantizers.residual import Residual
from imtok.quantizers.vq import VQ
from imtok.regularizers.scale_dropout import ScaleDropout
from imtok.regularizers.slot_dropout import SlotDropout


def depths(count=4):
    stages = [VQ(dim=4, codebook_size=32, normalize=False) for _ in range(count)]
    for stage in stages:
        torch.nn.init.normal_(stage.weight)
    return Residual(stages)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def kept_slots(dropped, quantized, quantizer):
    """How many slots each image kept, found by trying all."""
    prefixes = [quantizer.decode(quantized.ids, slots=count) for count in range(len(quantizer.vocab_sizes) + 1)]
    same = torch.stack([(prefix == dropped.latents).flatten(1).all(1) for prefix in prefixes])
    assert same.any(0).all()
    return same.float().argmax(0)


def test_an_image_that_loses_slots_is_the_prefix_of_its_own_code():
    quantizer = depths()
    quantized = quantizer(torch.randn(64, 5, 4))
    dropped = SlotDropout(probability=1.0, fewest=2)(quantized, quantizer, 0, seeded())
    kept = kept_slots(dropped, quantized, quantizer)
    assert kept.unique().tolist() == [2, 3, 4]
    assert torch.equal(dropped.ids, quantized.ids)
    assert dropped.losses is quantized.losses
    assert dropped.stats is quantized.stats


def test_the_share_of_images_and_their_depths_are_those_asked_for():
    quantizer = depths()
    quantized = quantizer(torch.randn(4000, 1, 4))
    dropped = SlotDropout(probability=0.4, fewest=1)(quantized, quantizer, 0, seeded())
    shares = torch.bincount(kept_slots(dropped, quantized, quantizer), minlength=5) / 4000
    torch.testing.assert_close(shares, torch.tensor([0.0, 0.1, 0.1, 0.1, 0.7]), atol=0.02, rtol=0)


def test_the_gradient_is_that_of_the_whole_code():
    quantizer, direction = depths(), torch.randn(16, 5, 4)
    latents = torch.randn(16, 5, 4, requires_grad=True)
    dropped = SlotDropout(probability=1.0)(quantizer(latents), quantizer, 0, seeded())
    (dropped.latents * direction).sum().backward()
    assert torch.equal(latents.grad, direction)


def test_only_the_generator_decides_and_the_global_one_is_left_alone():
    quantizer, dropout = depths(), SlotDropout(probability=0.5)
    quantized = quantizer(torch.randn(64, 5, 4))
    state = torch.get_rng_state()
    one, two, three = (dropout(quantized, quantizer, 0, seeded(seed)).latents for seed in (0, 0, 1))
    assert torch.equal(one, two)
    assert not torch.equal(one, three)
    assert torch.equal(torch.get_rng_state(), state)


def test_with_probability_zero_nothing_changes():
    quantizer = depths()
    quantized = quantizer(torch.randn(64, 5, 4))
    assert torch.equal(SlotDropout(probability=0.0)(quantized, quantizer, 0, seeded()).latents, quantized.latents)


def test_latents_that_were_not_kept_stay_zero():
    quantizer, keep = depths(), torch.rand(64, 5) < 0.5
    quantized = quantizer(torch.randn(64, 5, 4), keep)
    dropped = SlotDropout(probability=1.0)(quantized, quantizer, 0, seeded())
    assert not dropped.latents[~keep].any()
    assert dropped.keep is keep
    assert not torch.equal(dropped.latents, quantized.latents)


def test_half_precision_latents_stay_so():
    quantizer = depths()
    quantized = quantizer(torch.randn(8, 5, 4).bfloat16())
    assert SlotDropout(probability=1.0)(quantized, quantizer, 0, seeded()).latents.dtype == torch.bfloat16


def scales():
    table = VQ(dim=4, codebook_size=32, normalize=False)
    torch.nn.init.normal_(table.weight)
    return MultiScale(table, [1, 2, 3, 4])


@pytest.mark.parametrize("branches", [1, 2])
def test_an_image_that_loses_scales_is_decoded_from_its_first_scales_in_all_branches(branches):
    quantizer = scales() if branches == 1 else Product([scales(), scales()])
    quantized = quantizer(torch.randn(64, 16, quantizer.dim))
    dropped = ScaleDropout(probability=1.0, fewest=2)(quantized, quantizer, 0, seeded())
    prefixes = [quantizer.decode(quantized.ids[:, :tokens]) for tokens in (5, 14, 30)]
    # another number of images may change the last bit of a convolution
    same = [(prefix - dropped.latents).abs().flatten(1).amax(1) < 1e-5 for prefix in prefixes]
    assert torch.stack(same).any(0).all()
    assert all(one.any() for one in same)


def test_quantizers_without_enough_levels_are_refused():
    quantizer = depths()
    quantized = quantizer(torch.randn(2, 5, 4))
    with pytest.raises(ValueError, match="fewest must be at most the quantizer's 4 levels, got 5"):
        SlotDropout(fewest=5)(quantized, quantizer, 0, seeded())
    with pytest.raises(ValueError, match="must have scales, the same in all branches, got Residual"):
        ScaleDropout()(quantized, quantizer, 0, seeded())


def test_a_quantizer_of_one_slot_loses_nothing():
    quantizer = FSQ([5, 5])
    quantized = quantizer(torch.randn(8, 5, 2))
    assert torch.equal(SlotDropout(probability=1.0)(quantized, quantizer, 0, seeded()).latents, quantized.latents)


@pytest.mark.parametrize("wrong", [{"probability": 1.5}, {"probability": -0.1}, {"fewest": 0}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=r"must be .*got.*" + str(next(iter(wrong.values())))):
        SlotDropout(**wrong)
