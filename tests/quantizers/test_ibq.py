"""What only IBQ promises: it is compared with the one-hot graph of the paper."""

import pytest
import torch
import torch.nn.functional as F

from imtok.quantizers import entropy
from imtok.quantizers.ibq import IBQ


def one_hot_graph(latents, table):
    """``q = (h + s - sg s) E`` with all its matrices."""
    soft = (latents @ table.T).softmax(-1)
    hard = F.one_hot(soft.argmax(-1), len(table)).to(soft)
    return (hard + (soft - soft.detach())) @ table, hard @ table


@pytest.fixture
def pair():
    quantizer = IBQ(dim=4, codebook_size=40).double()
    return quantizer, torch.randn(2, 15, 4, dtype=torch.float64, requires_grad=True)


def test_values_and_gradients_equal_the_one_hot_graph(pair):
    quantizer, latents = pair
    quantized, (naive, _) = quantizer(latents), one_hot_graph(latents, quantizer.weight)
    torch.testing.assert_close(quantized.latents, naive)
    direction = torch.randn_like(naive)
    wanted = (latents, quantizer.weight)
    ours = torch.autograd.grad((quantized.latents * direction).sum(), wanted)
    theirs = torch.autograd.grad((naive * direction).sum(), wanted)
    for mine, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("masked", [False, True])
def test_blocks_change_neither_losses_nor_gradients(pair, masked, monkeypatch):
    quantizer, latents = pair
    keep = torch.rand(2, 15) < 0.6 if masked else None

    def results():
        quantized = quantizer(latents, keep)
        values = [loss.value for loss in quantized.losses.values()]
        total = sum(value * loss.weight for value, loss in zip(values, quantized.losses.values(), strict=True))
        gradients = torch.autograd.grad(quantized.latents.square().sum() + total, (latents, quantizer.weight))
        return [quantized.latents, *values, *gradients]

    whole = results()
    monkeypatch.setattr(entropy, "BLOCK", 7 * 40)
    torch.testing.assert_close(results(), whole, rtol=1e-10, atol=1e-12)


def test_every_code_learns_from_a_few_tokens():
    quantizer = IBQ(dim=8, codebook_size=500)
    quantizer(torch.randn(1, 3, 8)).latents.square().sum().backward()
    assert (quantizer.weight.grad.abs().amax(-1) > 0).all()


def test_losses_equal_their_formulas(pair):
    quantizer, latents = pair
    losses, (soft, hard) = quantizer(latents).losses, one_hot_graph(latents, quantizer.weight)
    expected = {
        "commit_soft": ((soft - latents).square().mean(), 1.0),
        "commit": ((hard.detach() - latents).square().mean(), 1.0),
        "codebook": ((hard - latents.detach()).square().mean(), 0.25),
    }
    probabilities = (latents @ quantizer.weight.T / 0.01).softmax(-1).flatten(0, 1)
    guarded = probabilities.clamp_min(1e-30)
    expected["entropy_token"] = (-(probabilities * guarded.log()).sum(-1).mean(), 0.05)
    mean = probabilities.mean(0)
    expected["entropy_codebook"] = (-(mean * mean.clamp_min(1e-30).log()).sum(), -0.05)
    assert losses.keys() == expected.keys()
    for name, (value, weight) in expected.items():
        torch.testing.assert_close(losses[name].value, value, msg=name)
        assert losses[name].weight == weight
        for wanted in (latents, quantizer.weight):
            (ours,) = torch.autograd.grad(losses[name].value, wanted, retain_graph=True, allow_unused=True)
            (theirs,) = torch.autograd.grad(value, wanted, retain_graph=True, allow_unused=True)
            assert (ours is None) == (theirs is None), name
            if ours is not None:
                torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9, msg=name)


def test_the_code_of_the_greatest_dot_product_is_chosen_not_the_nearest():
    quantizer = IBQ(dim=2, codebook_size=2)
    with torch.no_grad():
        quantizer.weight.copy_(torch.tensor([[1.0, 0.0], [9.0, 0.0]]))
    assert quantizer(torch.tensor([[[1.0, 0.0]]])).ids.item() == 1


def test_evaluation_without_gradients_gives_the_same_codes(pair):
    quantizer, latents = pair
    with torch.no_grad():
        assert torch.equal(quantizer(latents).latents, quantizer(latents.detach()).latents)
        assert quantizer(latents * torch.nan).latents.isnan().all()


def test_an_entropy_of_weight_zero_or_outside_training_is_not_computed():
    for quantizer in (IBQ(dim=4, codebook_size=8, entropy_weight=0.0), IBQ(dim=4, codebook_size=8).eval()):
        assert set(quantizer(torch.randn(1, 4, 4)).losses) == {"commit_soft", "commit", "codebook"}


@pytest.mark.parametrize("wrong", [{"dim": 0}, {"codebook_size": 0}, {"temperature": 0.0}, {"entropy_weight": -1.0}])
def test_settings_out_of_range_are_refused_with_their_value(wrong):
    with pytest.raises(ValueError, match=r"must (be|not be) .*got.*" + str(next(iter(wrong.values())))):
        IBQ(**({"dim": 4, "codebook_size": 8} | wrong))
