"""Attention between a net and its codes: against the published layer by hand, and in both directions."""

import pytest
import torch
from torch.nn import functional as F

from imtok.nn.attention_projection import AttentionProjection


def drawn(*widths, **settings):
    layer = AttentionProjection(*widths, **settings).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(std=0.5)
    return layer


def norm(layer, tokens, eps=1e-5):
    return F.layer_norm(tokens, tokens.shape[-1:], layer.weight, layer.bias, eps)


def reference(layer, tokens, heads, narrow, causal):
    """The layer of the public code of DualToken, written out."""
    batch, number, _ = tokens.shape
    bias = torch.cat([layer.query_value_bias[0], torch.zeros(heads * narrow), layer.query_value_bias[1]])
    fused = F.linear(norm(layer.norm_attention, tokens), layer.query_key_value.weight, bias.double())
    query, key, value = fused.reshape(batch, number, 3, heads, narrow).permute(2, 0, 3, 1, 4)
    scores = query @ key.mT * narrow**-0.5
    if causal:
        scores = scores.masked_fill(torch.ones(number, number).triu(1).bool(), float("-inf"))
    seen = scores.softmax(-1) @ value
    seen = seen.mean(1) if layer.narrows else seen.transpose(1, 2).reshape(batch, number, -1)
    found = layer.shortcut(norm(layer.norm_shortcut, tokens)) + layer.project(seen)
    inner = norm(layer.norm_gate, norm(layer.norm_mlp, found), 1e-6)
    return found + layer.out(F.gelu(layer.gate(inner), approximate="tanh") * layer.value(inner))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("widths", [(24, 8), (8, 24), (8, 8)])
def test_it_is_the_published_layer(widths, causal):
    layer, tokens = drawn(*widths, causal=causal), torch.randn(2, 5, widths[0], dtype=torch.float64)
    expected = reference(layer, tokens, max(widths) // min(widths), min(widths), causal)
    torch.testing.assert_close(layer(tokens), expected)
    changed = tokens.clone()
    changed[:, 3:] += 1
    assert torch.equal(layer(changed)[:, :3], layer(tokens)[:, :3]) == causal


def test_widths_need_not_divide_each_other():
    assert AttentionProjection(16, 3)(torch.randn(1, 4, 16)).shape == (1, 4, 3)
    assert AttentionProjection(3, 16)(torch.randn(1, 4, 3)).shape == (1, 4, 16)
    with pytest.raises(ValueError, match="in_dim and out_dim must be positive, got 0 and 3"):
        AttentionProjection(0, 3)


def test_it_computes_in_single_precision_inside_autocast():
    layer, tokens = AttentionProjection(16, 4), torch.randn(1, 3, 16)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(tokens.bfloat16())
    assert found.dtype == torch.float32
    assert torch.equal(found, layer(tokens.bfloat16().float()))
