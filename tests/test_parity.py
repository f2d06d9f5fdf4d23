"""The comparison with published code finds what differs, and lets through what does not."""

import copy

import pytest
import torch

from imtok.decoders.cnn import CNNDecoder
from imtok.encoders.cnn import CNNEncoder
from imtok.quantizers.estimators import Estimator
from imtok.quantizers.vq import VQ
from imtok.tokenizer import Tokenizer
from parity.official import Official, Passed
from parity.run import error, errors, lifted, passed

IMAGE = torch.rand(2, 3, 16, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture
def ours():
    torch.manual_seed(0)
    net = {"channels": 8, "multipliers": (1, 2), "blocks": 1, "latent_channels": 4}
    quantizer = VQ(dim=4, codebook_size=50)
    torch.nn.init.normal_(quantizer.weight)
    return Tokenizer(CNNEncoder(4, **net), quantizer, CNNDecoder(4, **net)).double().eval()


def published(tokenizer):
    """A twin that gives what the published modules give."""

    def run(image):
        found = tokenizer(image)
        loss = sum(term.value * term.weight for term in found.quantized.losses.values())
        return Passed(tokenizer.encoder(image).values, found.quantized.ids, found.image, loss)

    return Official("a twin", tokenizer, run, dict)


def judged(ours, twin):
    return {"back": True, "float64": errors(published(twin), ours, IMAGE)}


def test_a_twin_differs_in_nothing(ours):
    row = judged(ours, copy.deepcopy(ours))
    assert row["float64"] == {"ids": 1, "latents": 0, "image": 0, "loss": 0, "gradients": 0}
    assert passed(row)
    assert not passed(row | {"back": False})


class Twice(Estimator):
    """The right codes, with twice the gradient."""

    def passed(self, codes, latents, of):
        return codes.detach() + 2 * (latents - latents.detach())


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        (lambda twin: twin.encoder.conv_in.weight.mul_(1.001), "latents"),
        (lambda twin: twin.decoder.conv_out.bias.add_(0.01), "image"),
        (lambda twin: twin.quantizer.weight.copy_(twin.quantizer.weight.flip(0)), "ids"),
        (lambda twin: setattr(twin.quantizer, "commit_weight", 0.3), "loss"),
        (lambda twin: setattr(twin.quantizer, "estimate", Twice()), "gradients"),
    ],
)
def test_what_differs_is_found(ours, change, seen):
    twin = copy.deepcopy(ours)
    with torch.no_grad():
        change(twin)
    row = judged(ours, twin)
    found = row["float64"]
    assert found["ids"] < 1 if seen == "ids" else found[seen] > 1e-5
    assert not passed(row)


def test_an_error_is_the_largest_difference_over_the_largest_value():
    assert error(torch.tensor([1.0, -4.0]), torch.tensor([2.0, -4.0])) == 0.25


def test_single_precision_inside_published_code_is_lifted_and_put_back():
    value = torch.ones(1, dtype=torch.float64)
    with lifted(torch.float64):
        assert value.float().dtype == torch.float64
    with lifted(torch.float32):
        assert value.float().dtype == torch.float32
    assert value.float().dtype == torch.float32
