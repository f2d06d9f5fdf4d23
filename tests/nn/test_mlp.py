"""Token-wise networks against their formulas."""

import pytest
import torch
from encoders.presets import unchecked
from torch.nn import functional as F

from imtok.nn.mlp import GatedMLP, mlp


def test_the_plain_one_has_the_exact_gelu():
    network, x = mlp("gelu", 6, 24).double(), torch.randn(2, 5, 6, dtype=torch.float64)
    hidden = x @ network[0].weight.T + network[0].bias
    gelu = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    torch.testing.assert_close(network(x), gelu @ network[2].weight.T + network[2].bias, rtol=1e-12, atol=1e-12)


def test_the_gated_one_gates_by_silu():
    network, x = GatedMLP(6, 16, bias=False).double(), torch.randn(2, 5, 6, dtype=torch.float64)
    gate, value = x @ network.gate.weight.T, x @ network.value.weight.T
    expected = (gate * torch.sigmoid(gate) * value) @ network.out.weight.T
    torch.testing.assert_close(network(x), expected, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        network.gate.weight.zero_()
    assert not network(x).any()


@pytest.mark.parametrize(("kind", "maps"), [("gelu", 2), ("swiglu", 3)])
def test_biases_are_there_or_not_as_asked(kind, maps):
    count = {bias: sum(p.numel() for p in mlp(kind, 6, 16, bias).parameters()) for bias in (True, False)}
    assert count == {False: maps * 6 * 16, True: maps * 6 * 16 + (maps - 1) * 16 + 6}


def test_tokens_do_not_see_one_another():
    network, x = mlp("swiglu", 6, 16).double(), torch.randn(1, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(network(x)[:, 2:3], network(x[:, 2:3]))
    torch.testing.assert_close(F.linear(x, torch.eye(6, dtype=torch.float64)), x)


def test_another_kind_is_refused():
    with unchecked(), pytest.raises(ValueError, match=r"mlp must be one of gelu, .*, norm_geglu, got 'relu'"):
        mlp("relu", 6, 16)


def test_quick_gelu_is_that_of_clip_and_a_norm_stands_before_the_last_map():
    x = torch.randn(3, 6)
    quick = mlp("quick_gelu", 6, 16)
    hidden = quick[0](x)
    torch.testing.assert_close(quick(x), quick[2](hidden * torch.sigmoid(1.702 * hidden)))
    gated = mlp("swiglu_norm", 6, 16, eps=1e-6)
    hidden = torch.nn.functional.silu(gated.gate(x)) * gated.value(x)
    torch.testing.assert_close(gated(x), gated.out(torch.nn.functional.layer_norm(hidden, (16,), eps=1e-6)))


def test_a_norm_stands_before_what_gelu_gates():
    x, network = torch.randn(3, 6), mlp("norm_geglu", 6, 16, eps=1e-6)
    norm, gated = network
    inner = F.layer_norm(x, (6,), norm.weight, norm.bias, eps=1e-6)
    torch.testing.assert_close(
        network(x), gated.out(F.gelu(gated.gate(inner), approximate="tanh") * gated.value(inner))
    )
