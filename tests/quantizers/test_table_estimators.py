"""Every quantizer with a table takes every estimator: values, gradients, draws."""

import copy

import pytest
import torch
import torch.nn.functional as F

from imtok.quantizers.ema_vq import EMAVQ
from imtok.quantizers.estimators import rotation, straight_through
from imtok.quantizers.fvq import FVQ
from imtok.quantizers.gumbel import GumbelVQ
from imtok.quantizers.ibq import IBQ
from imtok.quantizers.residual import Residual
from imtok.quantizers.shared_vq import SharedVQ
from imtok.quantizers.simvq import SimVQ
from imtok.quantizers.table import ESTIMATORS, find_estimator
from imtok.quantizers.vq import VQ

KINDS = {
    "vq": lambda estimator: VQ(4, 16, normalize=False, kmeans_start=True, estimator=estimator),
    "unit": lambda estimator: VQ(4, 16, kmeans_start=True, estimator=estimator),
    "cosine": lambda estimator: VQ(4, 16, False, "cosine", kmeans_start=True, estimator=estimator),
    "ema_vq": lambda estimator: EMAVQ(4, 16, estimator=estimator),
    "shared_vq": lambda estimator: SharedVQ([1, 3], 16, [2.0, 0.5], kmeans_start=True, estimator=estimator),
    "simvq": lambda estimator: SimVQ(4, 16, estimator=estimator),
    "fvq": lambda estimator: FVQ(4, 16, width=16, estimator=estimator),
}
LATENTS = torch.randn(2, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def built(kind, estimator):
    torch.manual_seed(1)
    quantizer = KINDS[kind](estimator).double()
    quantizer.start(LATENTS.flatten(0, 1))
    for parameter in quantizer.parameters():
        torch.nn.init.normal_(parameter)
    return quantizer


def drawn_from(seed):
    return torch.Generator().manual_seed(seed)


def gradients(value, latents, quantizer):
    wanted = [latents, *quantizer.parameters()]
    found = torch.autograd.grad(value, wanted, allow_unused=True)
    return [torch.zeros_like(w) if g is None else g for w, g in zip(wanted, found, strict=True)]


def place(quantizer, latents):
    return quantizer.place(latents) if isinstance(quantizer, VQ) else latents


def assert_same_gradients(quantizer, graph, seed=None):
    """Of what ``forward`` returns, and of the value that ``graph`` makes of latents, table and ids."""
    ours, theirs = (LATENTS.clone().requires_grad_() for _ in range(2))
    direction = torch.randn_like(LATENTS)
    quantized = quantizer(ours, generator=None if seed is None else drawn_from(seed))
    points, table = place(quantizer, theirs), quantizer.table()
    expected = graph(points, table, quantized.ids[..., 0])
    torch.testing.assert_close(quantized.latents, expected, rtol=1e-9, atol=1e-12)
    found = gradients((quantized.latents * direction).sum(), ours, quantizer)
    for mine, right in zip(found, gradients((expected * direction).sum(), theirs, quantizer), strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-7, atol=1e-10)
    return found


def logits(quantizer, points, table):
    one, other = quantizer.compared(points.flatten(0, 1), table)
    return -(one[:, None] - other).square().sum(-1).view(*points.shape[:2], -1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_in_evaluation_the_nearest_code_goes_on_bit_for_bit_and_gradients_flow(kind, estimator):
    quantizer, plain = built(kind, estimator).eval(), built(kind, "straight_through").eval()
    latents = LATENTS.clone().requires_grad_()
    quantized = quantizer(latents)
    assert torch.equal(quantized.ids, plain(LATENTS).ids)
    assert torch.equal(quantized.latents, quantizer.decode(quantized.ids))
    quantized.latents.square().sum().backward()
    assert latents.grad.abs().sum(-1).min() > 0
    with torch.no_grad():
        assert torch.equal(quantizer(LATENTS).latents, quantized.latents)
        assert quantizer(LATENTS * float("nan")).latents.isnan().any(-1).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("estimate", [straight_through, rotation])
def test_straight_through_and_rotation_are_those_functions(kind, estimate):
    quantizer = built(kind, estimate.__name__)
    found = assert_same_gradients(quantizer, lambda z, table, ids: estimate(table[ids], z))
    assert not any(gradient.any() for gradient in found[1:])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variance", [0.0, 0.01])
def test_diveq_is_the_error_with_its_length_and_a_direction_with_noise(kind, variance):
    quantizer = built(kind, {"name": "diveq", "variance": variance})
    noise = torch.randn(LATENTS.shape, dtype=torch.float64, generator=drawn_from(4)) * variance**0.5

    def graph(z, table, ids):
        towards = (table[ids] - z).detach() + noise
        return z + (table[ids] - z).norm(dim=-1, keepdim=True) * towards / towards.norm(dim=-1, keepdim=True)

    assert_same_gradients(quantizer, graph, seed=4)
    quantized = quantizer(LATENTS)
    moved = quantized.latents - place(quantizer, LATENTS)
    error = quantizer.decode(quantized.ids) - place(quantizer, LATENTS)
    torch.testing.assert_close(moved.norm(dim=-1), error.norm(dim=-1))
    assert (F.cosine_similarity(moved, error, dim=-1) > 0.5).all()


@pytest.mark.parametrize("kind", KINDS)
def test_softmax_is_the_one_hot_graph_of_index_backpropagation(kind):
    quantizer = built(kind, {"name": "softmax", "temperature": 0.7})

    def graph(z, table, ids):
        soft = (logits(quantizer, z, table) / 0.7).softmax(-1)
        return F.one_hot(ids, 16).double() @ table + (soft - soft.detach()) @ table.detach()

    assert_same_gradients(quantizer, graph)
    quantized = quantizer(LATENTS)
    assert torch.equal(quantized.latents, quantizer.decode(quantized.ids))


@pytest.mark.parametrize("kind", KINDS)
def test_gumbel_softmax_is_its_one_hot_graph(kind):
    quantizer = built(kind, {"name": "gumbel_softmax", "temperature": 0.7, "relaxation": 0.5})
    noise = -torch.empty(2, 6, 16, dtype=torch.float64).exponential_(generator=drawn_from(3)).log()

    def graph(z, table, ids):
        scores = logits(quantizer, z, table) / 0.7 + noise
        assert torch.equal(scores.argmax(-1), ids)
        soft = (scores / 0.5).softmax(-1)
        return F.one_hot(ids, 16).double() @ table + (soft - soft.detach()) @ table.detach()

    assert_same_gradients(quantizer, graph, seed=3)
    quantized = quantizer(LATENTS)
    assert torch.equal(quantized.latents, quantizer.decode(quantized.ids))
    sure = quantizer.eval()(LATENTS)
    assert not torch.equal(quantized.ids, sure.ids)
    for name, loss in quantized.losses.items():
        assert torch.equal(loss.value, sure.losses[name].value), name


def test_gumbel_softmax_draws_nearer_codes_more_often():
    quantizer = VQ(4, 5, normalize=False, estimator={"name": "gumbel_softmax", "temperature": 0.5}).double()
    torch.nn.init.normal_(quantizer.weight, std=0.3)
    latent = LATENTS[:1, :1]
    chances = (logits(quantizer, latent, quantizer.weight) / 0.5).softmax(-1).flatten().detach()
    ids = quantizer(latent.expand(1, 20_000, 4), generator=drawn_from(0)).ids.flatten()
    shares = torch.bincount(ids, minlength=5) / len(ids)
    assert ((shares - chances).abs() < 4 * (chances * (1 - chances) / len(ids)).sqrt()).all()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_draws_come_from_the_generator_alone_and_a_quantizer_says_what_it_does(estimator):
    given = {"name": estimator, "temperature": 1.0} if "softmax" in estimator else estimator
    quantizer, latents = built("vq", given), LATENTS.clone().requires_grad_()
    one, same, other = (quantizer(latents, generator=drawn_from(seed)) for seed in (1, 1, 2))
    assert torch.equal(one.latents, same.latents)
    assert quantizer.stochastic is not torch.equal(one.latents, other.latents)
    assert quantizer.noisy is not torch.equal(one.latents, quantizer.decode(one.ids))
    reached = gradients((one.latents * torch.randn_like(LATENTS)).sum(), latents, quantizer)
    assert quantizer.moves_codes is bool(reached[1].any())
    assert Residual([quantizer], depth=2).stochastic is quantizer.stochastic
    assert GumbelVQ(4, 8).moves_codes
    assert IBQ(4, 8).moves_codes


@pytest.mark.parametrize("estimator", ["diveq", "softmax", "gumbel_softmax"])
def test_codes_learn_without_losses_of_their_own(estimator):
    """A decoder that wants its input at the latents draws the codes there."""
    quantizer = VQ(4, 16, False, codebook_weight=0.0, commit_weight=0.0, kmeans_start=True, estimator=estimator)
    points = torch.randn(1, 400, 4, generator=drawn_from(5))
    quantizer.start(points[0, :40])
    optimizer = torch.optim.Adam(quantizer.parameters(), lr=0.02)

    def error():
        return (quantizer(points, generator=drawn_from(6)).latents - points).square().mean()

    untrained = copy.deepcopy(quantizer)
    for _ in range(60):
        optimizer.zero_grad()
        error().backward()
        optimizer.step()
    after, before = ((one.eval()(points).latents - points).square().mean() for one in (quantizer, untrained))
    assert after < 0.95 * before


@pytest.mark.parametrize("estimator", ["diveq", "softmax", "gumbel_softmax"])
@pytest.mark.parametrize("scale", [0.0, 1e-8, 1e4])
def test_extreme_latents_and_latents_that_are_codes_have_finite_gradients(estimator, scale):
    quantizer = VQ(4, 16, normalize=False, estimator=estimator)
    for given in (torch.randn(2, 5, 4) * scale, quantizer.weight.detach()[None]):
        latents = given.clone().requires_grad_()
        quantized = quantizer(latents)
        quantized.latents.square().sum().backward()
        assert torch.isfinite(quantized.latents).all()
        assert torch.isfinite(latents.grad).all()
        assert torch.isfinite(quantizer.weight.grad).all()


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        ("gumbel", "must be one of straight_through, rotation, diveq, softmax, gumbel_softmax, got 'gumbel'"),
        ({"variance": 1.0}, "estimator must be one of .* got None"),
        ({"name": "rotation", "angle": 1}, "estimator rotation takes no setting, got angle"),
        ({"name": "diveq", "noise": 1}, "estimator diveq takes variance, got noise"),
        ({"name": "diveq", "variance": -1.0}, "estimator: variance must not be negative, got -1.0"),
        ({"name": "softmax", "temperature": 0.0}, "estimator: temperature must be positive, got 0.0"),
        ({"name": "gumbel_softmax", "relaxation": -1.0}, "estimator: relaxation must be positive, got -1.0"),
    ],
)
def test_what_is_no_estimator_is_refused(estimator, message):
    with pytest.raises(ValueError, match=message):
        find_estimator(estimator)
    with pytest.raises(ValueError, match=message):
        EMAVQ(4, 16, estimator=estimator)
