"""The causal transformer with dropout."""

import pytest
import torch

from imtok.nn.gpt import GPT
from imtok.nn.transformer import Transformer
from imtok.nn.visibility import causal_groups


def test_a_token_is_told_by_no_later_one():
    net, tokens = GPT(width=16, depth=2, heads=2, length=7), torch.randn(2, 6, 16, requires_grad=True)
    told = net(tokens) @ torch.randn(16)
    for last in range(6):
        (gradient,) = torch.autograd.grad(told[:, last].sum(), tokens, retain_graph=True)
        assert gradient[:, : last + 1].abs().sum(-1).min() > 0
        assert torch.equal(gradient[:, last + 1 :], torch.zeros(2, 5 - last, 16))


def test_without_dropout_it_is_the_one_transformer_with_a_causal_mask():
    net, other = GPT(width=16, depth=2, heads=2, length=6, dropout=0.3).eval(), Transformer(width=16, depth=2, heads=2)
    names = {".mlp.0.": ".mlp.fc1.", ".mlp.2.": ".mlp.fc2."}
    found = other.state_dict()
    for name, value in net.blocks.state_dict(prefix="blocks.").items():
        own = next((name.replace(a, b) for a, b in names.items() if a in name), name)
        own = own if own in found else name
        found[own] = value
    other.load_state_dict(found)
    tokens = torch.randn(3, 5, 16)
    expected = net.norm(other(tokens + net.positions[:5], causal_groups([1] * 5)))
    torch.testing.assert_close(net(tokens), expected)


def test_dropout_is_for_training():
    net, tokens = GPT(width=16, depth=1, heads=2, length=5, dropout=0.5), torch.randn(1, 5, 16)
    assert not torch.equal(net(tokens), net(tokens))
    net.eval()
    assert torch.equal(net(tokens), net(tokens))


@pytest.mark.parametrize("given", [{"width": 0}, {"depth": 0}, {"length": 0}, {"dropout": 1.0}, {"heads": 3}])
def test_what_cannot_be_is_refused(given):
    with pytest.raises(ValueError, match=r"must be|must divide"):
        GPT(**({"width": 16, "depth": 1, "heads": 2, "length": 5} | given))


def test_more_tokens_than_positions_are_refused():
    with pytest.raises(ValueError, match="tokens must be at most 5, got 6"):
        GPT(width=16, depth=1, heads=2, length=5)(torch.randn(1, 6, 16))
