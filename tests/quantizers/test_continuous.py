"""A continuous bottleneck passes latents through and has no ids."""

import pytest
import torch

from imtok.errors import InputError
from imtok.quantizers.continuous import Continuous


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_latents_pass_through_with_their_gradient(dtype):
    latents = torch.randn(2, 5, 16, dtype=dtype, requires_grad=True)
    quantized = Continuous(16)(latents)
    assert torch.equal(quantized.latents, latents)
    quantized.latents.sum().backward()
    assert torch.equal(latents.grad, torch.ones_like(latents))


def test_there_are_no_slots():
    quantizer = Continuous(16)
    quantized = quantizer(torch.randn(2, 5, 16))
    assert quantized.ids.shape == (2, 5, 0)
    assert quantized.ids.dtype == torch.int64
    assert (quantizer.vocab_sizes, quantizer.codebook(), quantizer.bits_per_token) == ((), [], 0)
    assert quantizer.neighbours(quantized.ids, 3).shape == (2, 5, 0, 3)


def test_masked_latents_become_zero():
    keep = torch.tensor([[True, False]])
    quantized = Continuous(4)(torch.ones(1, 2, 4), keep)
    assert quantized.latents[0].sum(-1).tolist() == [4, 0]


def test_decoding_is_refused_with_a_way_out():
    quantizer = Continuous(16)
    with pytest.raises(InputError, match="no ids to decode; give it ids first: imtok quantize"):
        quantizer.decode(torch.zeros(1, 4, 0, dtype=torch.long))


def test_a_bad_width_is_refused():
    with pytest.raises(ValueError, match="dim must be at least 1, got 0"):
        Continuous(0)
