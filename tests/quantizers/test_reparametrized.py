"""What quantizers promise whose codes are made of other weights: a table that is made once and never stale."""

import copy
import pickle
import warnings

import pytest
import torch
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from imtok.quantizers.fvq import FVQ
from imtok.quantizers.simvq import SimVQ


@pytest.fixture(params=["fvq", "simvq"])
def quantizer(request):
    return FVQ(4, 64, patch_size=2, width=16, heads=2) if request.param == "fvq" else SimVQ(4, 64)


@pytest.fixture
def counted(quantizer, monkeypatch):
    """The quantizer, and how often it has made its table."""
    calls, plain = [], type(quantizer).made

    def made(self):
        calls.append(self)
        return plain(self)

    monkeypatch.setattr(type(quantizer), "made", made)
    return quantizer, calls


@torch.no_grad()
def shifted(quantizer):
    for parameter in quantizer.parameters():
        parameter += 0.1 * torch.randn_like(parameter)


@torch.no_grad()
def averaged(quantizer, other):
    for mine, theirs in zip(quantizer.parameters(), other.parameters(), strict=True):
        mine.lerp_(theirs, 0.5)


def same(quantizer):
    with torch.no_grad():
        return torch.equal(quantizer.table(), quantizer.made())


@torch.no_grad()
def test_in_evaluation_the_table_is_made_once(counted):
    quantizer, calls = counted
    quantizer.eval()
    latents = torch.randn(2, 8, 4)
    for _ in range(3):
        quantizer.decode(quantizer(latents).ids)
        quantizer.neighbours(quantizer(latents).ids, 2)
        quantizer.codebook()
    assert len(calls) == 1


def test_in_training_it_is_made_with_gradients_each_time(counted):
    quantizer, calls = counted
    latents = torch.randn(2, 8, 4)
    quantizer(latents).losses["codebook"].value.backward()
    quantizer(latents).losses["codebook"].value.backward()
    assert len(calls) == 2
    assert all(parameter.grad.abs().sum() > 0 for parameter in quantizer.parameters())


def stepped(quantizer, **settings):
    quantizer(torch.randn(2, 8, 4)).losses["codebook"].value.backward()
    torch.optim.Adam(quantizer.parameters(), lr=0.1, **settings).step()


@pytest.mark.parametrize("kind", ["foreach", "fused"])
@pytest.mark.parametrize("training", [True, False])
def test_a_step_makes_it_anew(quantizer, training, kind):
    """A fused optimiser does not tell autograd what it has written."""
    with torch.no_grad():
        before = quantizer.eval().table().clone()
    stepped(quantizer.train(training), **{kind: True})
    assert not torch.equal(quantizer.eval().table(), before)
    assert same(quantizer)


@torch.no_grad()
def test_so_do_loaded_weights_averages_and_moves(quantizer):
    other = copy.deepcopy(quantizer)
    shifted(other)
    for change in (
        lambda: quantizer.load_state_dict(other.state_dict()),
        lambda: shifted(quantizer),
        lambda: averaged(quantizer, other),
        lambda: torch._foreach_mul_(list(quantizer.parameters()), 0.5),
        lambda: quantizer.load_state_dict({k: 2 * v for k, v in other.state_dict().items()}, assign=True),
        lambda: quantizer.double(),  # which also refines the table
        lambda: vector_to_parameters(2 * parameters_to_vector(quantizer.parameters()), quantizer.parameters()),
    ):
        before = quantizer.eval().table()
        change()
        assert not torch.equal(quantizer.table(), before)
        assert same(quantizer)
    quantizer.table()
    for parameter in quantizer.parameters():
        parameter.data.mul_(2)
    assert same(quantizer.eval())


@torch.no_grad()
def test_a_copy_keeps_no_table_of_its_original(quantizer):
    quantizer.eval().table()
    for twin in (copy.deepcopy(quantizer), pickle.loads(pickle.dumps(quantizer))):
        assert twin._kept is None
        assert torch.equal(twin.table(), quantizer.table())
        shifted(twin)
        assert not torch.equal(twin.table(), quantizer.table())
        assert same(twin)


def test_a_table_of_inference_mode_serves_training_as_well(quantizer):
    quantizer.eval().requires_grad_(False)
    with torch.inference_mode():
        quantizer.table()
    scale = torch.ones(4, requires_grad=True)
    (quantizer.table() * scale).sum().backward()
    torch.testing.assert_close(scale.grad, quantizer.table().sum(0))


def test_the_table_of_evaluation_is_that_of_training_bit_for_bit(quantizer):
    trained = quantizer.table()
    assert torch.equal(quantizer.eval().table(), trained)
    with torch.no_grad():
        assert torch.equal(quantizer.table(), trained)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(quantizer.table(), trained)


def test_weights_that_are_followed_by_shapes_are_not_asked_for_an_address(quantizer):
    """PyTorch warns of that once per process, so only the first run that was followed by shapes would show it."""
    shapes = FakeTensorMode(allow_non_fake_inputs=True)
    with FakeCopyMode(shapes):
        followed = copy.deepcopy(quantizer).eval().requires_grad_(False)
    with shapes, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error")
        assert followed.table().shape == quantizer.table().shape
    assert followed._kept is None
