"""The entropy of a token given the one before it, from soft assignments."""

import math
from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from imtok.losses.prior.entropy_rate import EntropyRate
from imtok.quantizers.fsq import FSQ
from imtok.quantizers.ibq import IBQ
from imtok.quantizers.shared_vq import SharedVQ
from imtok.quantizers.simvq import SimVQ
from imtok.quantizers.vq import VQ


def rate(quantizer, latents, keep=None, **given):
    penalty = EntropyRate(**({"temperature": 0.5} | given))
    return penalty(penalty.look(quantizer(latents, keep), quantizer, latents), 0)


@pytest.mark.parametrize(
    "quantizer", [VQ(3, 5), VQ(3, 5, normalize=False), SimVQ(3, 5), IBQ(3, 5)], ids=["unit", "free", "simvq", "ibq"]
)
def test_it_is_the_conditional_entropy_of_the_mean_pair(quantizer):
    quantizer, latents = quantizer.double(), torch.randn(2, 4, 3, dtype=torch.float64)
    codes, joint = quantizer.table(), torch.zeros(5, 5, dtype=torch.float64)
    unit = getattr(quantizer, "normalize", False)
    for image in latents:
        chances = []
        for latent in image:
            here = latent / latent.norm() if unit else latent
            near = [here @ code if isinstance(quantizer, IBQ) else -(here - code).square().sum() for code in codes]
            chances.append((torch.stack(near) / 0.5).softmax(0))
        for before, after in pairwise(chances):
            joint += torch.outer(before, after) / 6
    expected = -(joint * (joint / joint.sum(1, keepdim=True)).log()).sum()
    torch.testing.assert_close(rate(quantizer, latents), expected, rtol=1e-9, atol=1e-9)


def test_a_sequence_that_says_what_comes_next_costs_nothing_and_a_random_one_all():
    quantizer = VQ(4, 4)
    with torch.no_grad():
        quantizer.weight.copy_(torch.eye(4))
    in_turn = F.one_hot(torch.arange(400)[None] % 4, 4).float()
    drawn = F.one_hot(torch.randint(4, (1, 40000), generator=torch.Generator().manual_seed(0)), 4).float()
    assert rate(quantizer, in_turn, temperature=0.01) < 1e-3
    assert rate(quantizer, drawn, temperature=0.01).item() == pytest.approx(math.log(4), abs=1e-3)


def test_gradients_reach_encoder_and_codebook():
    quantizer = VQ(3, 5).double()
    latents = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    rate(quantizer, latents).backward()
    assert latents.grad is not None
    assert latents.grad.abs().sum(-1).min() > 0
    assert quantizer.weight.grad is not None
    assert torch.autograd.gradcheck(lambda given: rate(quantizer, given), latents)


def test_only_pairs_count_of_which_both_tokens_are_kept():
    quantizer, latents = VQ(3, 5).double(), torch.randn(1, 6, 3, dtype=torch.float64)
    keep = torch.tensor([[True, True, True, True, False, False]])
    torch.testing.assert_close(rate(quantizer, latents, keep), rate(quantizer, latents[:, :4]))


@pytest.mark.parametrize(
    "quantizer", [FSQ([3, 3, 3]), VQ(3, 5000), SharedVQ([2, 1], 8)], ids=lambda one: type(one).__name__
)
def test_anything_but_one_small_table_is_refused(quantizer):
    with pytest.raises(ValueError, match="must have one table of at most 4096 codes"):
        rate(quantizer, torch.randn(1, 4, 3))


def test_it_has_nothing_that_learns():
    assert list(EntropyRate().parameters()) == []
    with pytest.raises(ValueError, match="temperature must be positive"):
        EntropyRate(temperature=0.0)
