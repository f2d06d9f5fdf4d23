"""Both entropies can be weighed apart, by one key of every quantizer that has them."""

import pytest
import torch

from imtok.quantizers.bsq import BSQ
from imtok.quantizers.gq import GQ
from imtok.quantizers.ibq import IBQ
from imtok.quantizers.lfq import LFQ
from imtok.quantizers.multiscale import MultiScale
from imtok.quantizers.shared_vq import SharedVQ
from imtok.quantizers.vq import VQ

MAKE = {
    "vq": lambda weight: VQ(4, 16, entropy_weight=weight),
    "shared": lambda weight: SharedVQ([2, 2], 16, entropy_weight=weight),
    "ibq": lambda weight: IBQ(4, 16, entropy_weight=weight),
    "lfq": lambda weight: LFQ([4], entropy_weight=weight),
    "bsq": lambda weight: BSQ([4], entropy_weight=weight),
    "gq": lambda weight: GQ(groups=2, group_bits=2, entropy_weight=weight),
    "scales": lambda weight: MultiScale(BSQ([4], entropy_weight=0.0), [1, 2, 4], convolutions=0, entropy_weight=weight),
}


@pytest.mark.parametrize("name", MAKE)
def test_two_weights_are_of_tokens_and_of_the_codebook(name):
    latents = torch.randn(2, 16, 4)
    weights = []
    for given in (0.3, [0.1, 0.2]):
        torch.manual_seed(0)
        losses = MAKE[name](given)(latents).losses
        weights.append([losses["entropy_token"].weight, losses["entropy_codebook"].weight])
    assert weights[0] == pytest.approx([0.3, -0.3])
    assert weights[1] == pytest.approx([0.1, -0.2])


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("given", [0.0, [0.0, 0.0]])
def test_no_weight_computes_no_entropy(name, given):
    assert not {"entropy_token", "entropy_codebook"} & MAKE[name](given)(torch.randn(2, 16, 4)).losses.keys()
