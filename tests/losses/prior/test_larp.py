"""LARP's prior against its formulas written out by hand."""

import pytest
import torch
from torch.nn import functional as F

from imtok.losses.prior.larp import LARPPrior
from imtok.quantizers.continuous import Continuous
from imtok.quantizers.fsq import FSQ
from imtok.quantizers.gq import GQ
from imtok.quantizers.ibq import IBQ
from imtok.quantizers.lfq import LFQ
from imtok.quantizers.multiscale import MultiScale
from imtok.quantizers.simvq import SimVQ
from imtok.quantizers.vq import VQ
from imtok.types import Quantized

SMALL = {"max_steps": 100, "width": 16, "depth": 1, "heads": 2}


def prior(dim=4, tokens=6, **given):
    torch.manual_seed(0)
    return LARPPrior(dim=dim, num_latents=tokens, **({**SMALL, "dropout": 0.0} | given))


def test_two_rounds_are_those_of_the_paper_written_out_token_by_token():
    net, quantizer = prior(temperature=0.3).double(), VQ(4, 8).double()
    latents = torch.randn(3, 6, 4, dtype=torch.float64, requires_grad=True)
    quantized = quantizer(latents)
    torch.manual_seed(5)
    found = net(net.look(quantized, quantizer, latents), step=15)
    (gradient,) = torch.autograd.grad(found, latents, retain_graph=True)

    table = quantizer.table().detach()
    torch.manual_seed(5)
    drawn_here = torch.rand(3, 5, 1) < 15 / 30 * 0.5
    nats, read = [], quantized.latents
    for _ in range(2):
        logits = torch.zeros(3, 5, 8, dtype=torch.float64)
        rows = []
        for token in range(5):
            seen = net.net(net.embed(read[:, : token + 1]))[:, -1]
            told = net.head(seen)
            rows.append(told / told.norm(dim=-1, keepdim=True) @ table.T / 0.3)
        logits = torch.stack(rows, 1)
        nats.append(F.cross_entropy(logits.flatten(0, 1), quantized.ids[:, 1:, 0].flatten()))
        guess = table[torch.multinomial(logits.detach().softmax(-1).flatten(0, 1), 1)[:, 0]].view(3, 5, 4)
        later = torch.where(drawn_here, guess, quantized.latents[:, 1:])
        read = torch.cat([quantized.latents[:, :1], later], 1)
    expected = (nats[0] + nats[1]) / 2
    assert drawn_here.any()
    assert not drawn_here.all()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, latents)[0], rtol=1e-10, atol=1e-12)


def test_the_share_of_drawn_tokens_grows_to_its_peak_and_stays_there():
    net = prior(sampled=0.5, sampled_peak=0.3)
    assert [net.share(step) for step in (0, 15, 30, 99)] == [0.0, 0.25, 0.5, 0.5]


def test_gradients_reach_encoder_and_prior_and_no_codebook():
    net, quantizer, latents = prior(), VQ(4, 8), torch.randn(2, 6, 4, requires_grad=True)
    net(net.look(quantizer(latents), quantizer, latents), 50).backward()
    assert latents.grad[:, :-1].abs().sum(-1).min() > 0
    assert latents.grad[:, -1].abs().max() == 0  # the last token predicts nothing
    assert quantizer.weight.grad is None
    assert all(parameter.grad.abs().sum() > 0 for parameter in net.parameters())


@pytest.mark.parametrize(
    "quantizer",
    [VQ(4, 8), SimVQ(4, 8), IBQ(4, 8), FSQ([4, 3, 3, 2]), LFQ([4]), LFQ([2, 2]), GQ(groups=2, group_bits=2)],
    ids=lambda one: f"{type(one).__name__}{len(one.vocab_sizes)}",
)
def test_it_learns_what_follows_what_for_every_kind_of_code(quantizer):
    torch.manual_seed(0)
    net = prior(rounds=1)
    latents = 3 * torch.randn(1, 6, 4)
    seen = net.look(quantizer(latents), quantizer, latents).detached()
    optimizer = torch.optim.Adam(net.parameters(), 0.02)
    values = []
    for _ in range(60):
        optimizer.zero_grad()
        values.append(net(seen, 0))
        values[-1].backward()
        optimizer.step()
    assert values[-1] < 0.75 * values[0]


def test_only_kept_tokens_count():
    net, quantizer, latents = prior(rounds=1), VQ(4, 8), torch.randn(2, 6, 4)
    keep = torch.tensor([[True] * 6, [True] * 3 + [False] * 3])
    quantized = quantizer(latents, keep)
    whole, short = (
        net(net.look(Quantized(q.latents, q.ids), quantizer, latents), 0)
        for q in (quantizer(latents[:1]), quantizer(latents[1:, :3]))
    )
    found = net(net.look(quantized, quantizer, latents), 0)
    torch.testing.assert_close(found, (5 * whole + 2 * short) / 7)


@pytest.mark.parametrize(
    ("quantizer", "tokens", "message"),
    [
        (MultiScale(VQ(4, 8), [1, 2], convolutions=1), 4, "MultiScale gives 5 for 4"),
        (Continuous(4), 4, "Continuous gives none; give quantizer=vq"),
        (VQ(4, 8), 1, "at least 2 tokens to predict one from another, got 1"),
    ],
    ids=["multiscale", "continuous", "one"],
)
def test_what_is_no_sequence_of_tokens_is_refused(quantizer, tokens, message):
    latents = torch.randn(1, tokens, 4)
    with pytest.raises(ValueError, match=message):
        prior(tokens=tokens).look(quantizer(latents), quantizer, latents)


@pytest.mark.parametrize(
    "given",
    [{"rounds": 0}, {"sampled": 1.5}, {"sampled_peak": 0.0}, {"temperature": 0.0}, {"max_steps": 0}, {"weight": -1.0}],
)
def test_settings_out_of_range_are_refused(given):
    with pytest.raises(ValueError, match="must"):
        prior(**given)


def test_the_published_prior_has_as_many_parameters_as_its_code_says():
    net = LARPPrior(dim=16, num_latents=1024, max_steps=1)
    assert sum(parameter.numel() for parameter in net.parameters()) == 21_699_856  # "21.7M", less one position
