"""Soft look-ups: the same decoding for distributions over ids."""

import pytest
import torch
import torch.nn.functional as F
from quantizers.contract import NAMES, build, length

from imtok.quantizers.vq import VQ


@pytest.fixture(params=NAMES)
def quantizer(request):
    return build(request.param).eval()


def test_a_certain_distribution_decodes_to_its_code(quantizer):
    ids = quantizer(torch.randn(1, length(quantizer), quantizer.in_dim)).ids
    certain = [F.one_hot(ids[..., slot], size).float() for slot, size in enumerate(quantizer.vocab_sizes)]
    torch.testing.assert_close(quantizer.soft_decode(certain), quantizer.decode(ids).detach(), rtol=1e-5, atol=1e-5)


def test_soft_decoding_is_affine_in_the_probabilities(quantizer):
    shape = quantizer(torch.randn(1, length(quantizer), quantizer.in_dim)).ids.shape[:2]
    one, two = ([torch.rand(*shape, size).softmax(-1) for size in quantizer.vocab_sizes] for _ in range(2))
    mixed = [0.3 * a + 0.7 * b for a, b in zip(one, two, strict=True)]
    expected = 0.3 * quantizer.soft_decode(one) + 0.7 * quantizer.soft_decode(two)
    torch.testing.assert_close(quantizer.soft_decode(mixed), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_probabilities_of_any_type_give_codes_of_the_tables_type_under_autocast_too(quantizer, dtype):
    ids = quantizer(torch.randn(1, length(quantizer), quantizer.in_dim)).ids
    certain = [F.one_hot(ids[..., slot], size).to(dtype) for slot, size in enumerate(quantizer.vocab_sizes)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        codes = quantizer.soft_decode(certain)
    assert codes.dtype == torch.float32
    torch.testing.assert_close(codes, quantizer.decode(ids).detach(), rtol=1e-5, atol=1e-5)


def test_a_distribution_for_each_slot_is_wanted():
    with pytest.raises(ValueError, match="probabilities must be a tensor for each of 1 slots, got 2"):
        VQ(4, 8).soft_decode([torch.rand(1, 2, 8)] * 2)
