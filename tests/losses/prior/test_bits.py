"""The prior of bits: a logistic regression for each, together the softmax over all codes."""

import pytest
import torch

from imtok.losses.prior.bits import BitsPrior
from imtok.quantizers.binary import Binary
from imtok.quantizers.bsq import BSQ
from imtok.quantizers.gq import GQ
from imtok.quantizers.lfq import LFQ
from imtok.quantizers.vq import VQ

BINARY = [LFQ([6]), LFQ([4, 2]), BSQ([6]), GQ(groups=2, group_bits=3, siglu=True), Binary([6]).eval()]


def prior(dim=6, tokens=5, **given):
    torch.manual_seed(0)
    return BitsPrior(dim, tokens, **({"width": 16, "depth": 1, "heads": 2} | given)).double()


@pytest.mark.parametrize("quantizer", BINARY, ids=lambda one: f"{type(one).__name__}{len(one.vocab_sizes)}")
def test_it_is_the_softmax_over_all_codes_whose_bits_are_independent(quantizer):
    net, quantizer = prior(), quantizer.double()
    latents = torch.randn(3, 5, 6, dtype=torch.float64)
    quantized = quantizer(latents)
    found = net(net.look(quantized, quantizer, latents), 0)

    every = torch.arange(64)[:, None] >> torch.arange(6) & 1  # all codes as bits, the first channel first
    nats = []
    for token in range(5):
        before = net.embed(quantized.latents[:, :token])
        logits = net.head(net.net.net(torch.cat([net.net.begin.expand(3, 1, -1), before], 1))[:, -1])
        scores = (logits[:, None] * every).sum(-1).log_softmax(-1)
        bits = (latents[:, token] > 0).long()
        codes = (bits << torch.arange(6)).sum(-1)
        nats.append(-scores.gather(-1, codes[:, None]).mean())
    torch.testing.assert_close(found, torch.stack(nats).mean(), rtol=1e-10, atol=1e-10)


def test_tokens_of_128_bits_take_128_scores():
    net, quantizer = prior(128, width=16), GQ(groups=16, group_bits=8).double()
    latents = torch.randn(1, 5, 128, dtype=torch.float64, requires_grad=True)
    value = net(net.look(quantizer(latents), quantizer, latents), 0)
    value.backward()
    assert 60 < value < 130
    assert latents.grad is not None
    assert latents.grad[:, :-1].abs().sum(-1).min() > 0
    assert net.head.weight.shape == (128, 16)


def test_codes_without_bits_are_refused():
    quantizer, latents = VQ(6, 8), torch.randn(1, 5, 6)
    with pytest.raises(ValueError, match="VQ has none; give quantizer=lfq_18"):
        prior().look(quantizer(latents), quantizer, latents)


def test_only_kept_tokens_count():
    net, quantizer = prior(), LFQ([6]).double()
    latents = torch.randn(1, 5, 6, dtype=torch.float64)
    keep = torch.tensor([[True, True, True, False, False]])
    short = latents[:, :3]
    found = net(net.look(quantizer(latents, keep), quantizer, latents), 0)
    torch.testing.assert_close(found, net(net.look(quantizer(short), quantizer, short), 0))
