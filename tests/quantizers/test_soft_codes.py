"""Stochastic codes of RQ-Transformer, against their formula."""

import pytest
import torch

from imtok.quantizers.ema_vq import EMAVQ
from imtok.quantizers.residual import Residual
from imtok.quantizers.soft_codes import soft_codes
from imtok.quantizers.vq import VQ


def made(seed=0):
    torch.manual_seed(seed)
    quantizer = Residual([EMAVQ(dim=4, codebook_size=16)], depth=3).eval()
    return quantizer, torch.randn(2, 50, 4), torch.Generator().manual_seed(1)


def test_near_temperature_zero_the_ids_are_those_of_the_quantizer():
    quantizer, latents, generator = made()
    ids, chances = soft_codes(quantizer, latents, 1e-6, generator)
    assert torch.equal(ids, quantizer(latents).ids)
    assert torch.equal(chances.argmax(-1), ids)


def test_codes_are_drawn_as_often_as_their_distance_says():
    quantizer, latents, generator = made()
    same = latents[:1, :1].expand(1, 20000, 4)
    ids, chances = soft_codes(quantizer, same, 2.0, generator)
    distances = (latents[0, 0] - quantizer.stages[0].table()).square().sum(-1)
    expected = (-distances / 2.0).softmax(0)
    assert torch.allclose(chances[0, 0, 0], expected, atol=1e-6)
    assert torch.allclose(ids[0, :, 0].bincount(minlength=16) / 20000, expected, atol=0.02)


def test_each_depth_starts_from_what_the_drawn_codes_left_over():
    quantizer, latents, generator = made()
    ids, chances = soft_codes(quantizer, latents, 2.0, generator)
    table = quantizer.stages[0].table()
    rest = latents - table[ids[..., 0]] - table[ids[..., 1]]
    distances = (rest[:, :, None] - table).square().sum(-1)
    assert torch.allclose(chances[:, :, 2], (-distances / 2.0).softmax(-1), atol=1e-5)


def test_other_quantizers_and_temperatures_are_refused():
    quantizer, latents, generator = made()
    with pytest.raises(ValueError, match="temperature must be positive, got 0"):
        soft_codes(quantizer, latents, 0.0, generator)
    with pytest.raises(ValueError, match="one EMAVQ that all depths share"):
        soft_codes(Residual([VQ(dim=4, codebook_size=16)], depth=2), latents, 1.0, generator)
