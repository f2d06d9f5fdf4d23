"""ETT's prior: its cross entropy by hand, and where its gradients go, against finite differences."""

import pytest
import torch
from torch.nn import functional as F

from imtok.losses.prior.ett import ETTPrior
from imtok.quantizers.ema_vq import EMAVQ
from imtok.quantizers.fsq import FSQ
from imtok.quantizers.gumbel import GumbelVQ
from imtok.quantizers.ibq import IBQ
from imtok.quantizers.simvq import SimVQ
from imtok.quantizers.vq import VQ

TABLES = [VQ(4, 8), VQ(4, 8, normalize=False), VQ(4, 8, estimator="rotation"), SimVQ(4, 8), IBQ(4, 8)]
NAMES = ["unit", "free", "rotation", "simvq", "ibq"]


def prior(tokens=6, **given):
    torch.manual_seed(0)
    return ETTPrior(4, [8], tokens, **({"width": 16, "depth": 2, "heads": 2} | given)).double()


def latents(images=2, tokens=6):
    torch.manual_seed(2)
    return torch.randn(images, tokens, 4, dtype=torch.float64, requires_grad=True)


def learned(quantizer):
    return next(parameter for parameter in quantizer.parameters() if parameter.requires_grad)


@pytest.mark.parametrize("quantizer", TABLES, ids=NAMES)
def test_it_is_the_cross_entropy_of_each_id_given_the_codes_before_it(quantizer):
    net, quantizer, given = prior(), quantizer.double(), latents()
    quantized = quantizer(given)
    found = net(net.look(quantized, quantizer, given), 0)
    nats = []
    for token in range(6):
        codes = net.project(quantizer.decode(quantized.ids[:, :token]))
        begin = net.net.begin.expand(2, 1, -1)
        logits = net.head(net.net.net(torch.cat([begin, codes], 1))[:, -1])
        nats.append(F.cross_entropy(logits, quantized.ids[:, token, 0]))
    torch.testing.assert_close(found, torch.stack(nats).mean(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("quantizer", [*TABLES[:2], TABLES[3]], ids=[*NAMES[:2], NAMES[3]])
def test_the_codebooks_gradient_is_that_of_finite_differences(quantizer):
    """Of the loss itself: it is a smooth function of the codes as long as the choice of codes stays the same."""
    net, quantizer, given = prior(), quantizer.double(), latents()
    weight, step = learned(quantizer), 1e-6

    def value():
        quantized = quantizer(given)
        assert torch.equal(quantized.ids, ids)
        return net(net.look(quantized, quantizer, given), 0)

    ids = quantizer(given).ids
    (gradient,) = torch.autograd.grad(value(), weight)
    assert gradient.abs().max() > 1e-4
    differences = torch.zeros_like(weight)
    with torch.no_grad():
        for index in range(weight.numel()):
            for sign in (1, -1):
                weight.view(-1)[index] += sign * step
                differences.view(-1)[index] += sign * value() / (2 * step)
                weight.view(-1)[index] -= sign * step
    assert (gradient - differences).abs().max() < 1e-3 * differences.abs().max()


@pytest.mark.parametrize("quantizer", TABLES[1:2], ids=NAMES[1:2])
def test_the_encoders_gradient_is_that_of_finite_differences_of_what_the_prior_reads(quantizer):
    """Past the choice of a code the gradient goes straight through, as if the encoder moved the codes."""
    net, quantizer, step = prior(), quantizer.double(), 1e-6
    images, encoder = torch.randn(2, 6, 5, dtype=torch.float64), torch.nn.Linear(5, 4).double()
    quantized = quantizer(encoder(images))
    apart = (quantized.latents - encoder(images)).detach()
    (gradient,) = torch.autograd.grad(net(net.look(quantized, quantizer, images), 0), encoder.weight)
    differences = torch.zeros_like(encoder.weight)
    with torch.no_grad():
        seen = net.look(quantized, quantizer, images).detached()
        for index in range(encoder.weight.numel()):
            for sign in (1, -1):
                encoder.weight.view(-1)[index] += sign * step
                moved = type(seen)(encoder(images) + apart, seen.quantized, quantizer)
                differences.view(-1)[index] += sign * net(moved, 0) / (2 * step)
                encoder.weight.view(-1)[index] -= sign * step
    assert gradient.abs().max() > 1e-4
    assert (gradient - differences).abs().max() < 1e-3 * differences.abs().max()


@pytest.mark.parametrize("quantizer", TABLES, ids=NAMES)
def test_gradients_reach_encoder_codebook_and_prior(quantizer):
    net, quantizer, given = prior(), quantizer.double(), latents()
    quantizer.zero_grad()
    net(net.look(quantizer(given), quantizer, given), 0).backward()
    assert given.grad is not None
    assert given.grad[:, :-1].abs().sum(-1).min() > 0
    assert learned(quantizer).grad.abs().max() > 0
    assert all(parameter.grad.abs().sum() > 0 for parameter in net.parameters())


def test_a_codes_gradient_is_counted_once():
    """IBQ's own latents have it, so that adding the table's would double it."""
    net, given, tables = prior(), latents(), {"ibq": IBQ(4, 8).double(), "vq": VQ(4, 8, normalize=False).double()}
    with torch.no_grad():
        tables["vq"].weight.copy_(tables["ibq"].weight)
    found = {}
    for name, quantizer in tables.items():
        quantized = quantizer(given)
        seen = net.look(quantized, quantizer, given)
        one = torch.autograd.grad(seen.vectors.sum(), learned(quantizer))[0]
        found[name] = one.sum()
    torch.testing.assert_close(found["ibq"], found["vq"])  # IBQ's softmax moves codes among each other


@pytest.mark.parametrize(
    "quantizer",
    [IBQ(4, 8), GumbelVQ(4, 8), *(VQ(4, 8, estimator=name) for name in ("diveq", "softmax", "gumbel_softmax"))],
    ids=["ibq", "gumbel", "diveq", "softmax", "gumbel_softmax"],
)
def test_latents_with_the_codes_gradient_are_read_as_they_are(quantizer):
    quantizer, given, direction = quantizer.double(), latents(), torch.randn(2, 6, 4, dtype=torch.float64)
    quantized = quantizer(given)
    seen = prior().look(quantized, quantizer, given)
    assert torch.equal(seen.vectors, quantized.latents)
    read, own = (
        torch.autograd.grad((vectors * direction).sum(), quantizer.weight, retain_graph=True)[0]
        for vectors in (seen.vectors, quantized.latents)
    )
    assert own.any()
    torch.testing.assert_close(read, own)


@pytest.mark.parametrize("quantizer", [EMAVQ(4, 8), FSQ([2, 2, 2, 2])], ids=lambda quantizer: type(quantizer).__name__)
def test_codes_that_do_not_learn_by_gradients_are_refused(quantizer):
    given = torch.randn(1, 6, 4)
    with pytest.raises(ValueError, match=f"{type(quantizer).__name__} has none here; give quantizer=vq, simvq or ibq"):
        prior().look(quantizer(given), quantizer, given)


def test_tokens_that_are_dropped_neither_count_nor_say_anything():
    net, quantizer, given = prior(), VQ(4, 8).double(), latents(images=1)
    keep = torch.tensor([[True, True, True, False, False, False]])
    found = net(net.look(quantizer(given, keep), quantizer, given), 0)
    torch.testing.assert_close(found, net(net.look(quantizer(given[:, :3]), quantizer, given), 0))
    assert net.look(quantizer(given, keep), quantizer, given).vectors[:, 3:].abs().max() == 0


def test_a_frozen_codebook_is_refused_unless_nobody_would_feel_the_prior():
    quantizer, given = VQ(4, 8).requires_grad_(False), torch.randn(1, 6, 4)
    with pytest.raises(ValueError, match="VQ has none here"):
        prior().look(quantizer(given), quantizer, given)
    assert prior(weight=0.0).look(quantizer(given), quantizer, given).vectors.shape == (1, 6, 4)


@pytest.mark.parametrize("sizes", [[], [8, 8], [2**30]])
def test_anything_but_one_table_is_refused_before_a_net_is_built(sizes):
    with pytest.raises(ValueError, match="vocab_sizes must be that of one table"):
        ETTPrior(4, sizes, 6)
