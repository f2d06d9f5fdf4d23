"""Attention against torch's own module and against the formula."""

import pytest
import torch
from torch import nn

from imtok.nn.attention import Attention, SelfAttention
from imtok.nn.positions import rotate, rotations

WIDTH, HEADS, HEAD = 24, 4, 6


def tokens(number=5, images=2):
    return torch.randn(images, number, WIDTH, dtype=torch.float64)


def copy_from_torch(attention, reference):
    with torch.no_grad():
        attention.query_key_value.weight.copy_(reference.in_proj_weight)
        attention.query_key_value.bias.copy_(reference.in_proj_bias)
        attention.project.load_state_dict(reference.out_proj.state_dict())


def torch_attention():
    reference = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True).double()
    nn.init.normal_(reference.in_proj_bias)
    return reference


@pytest.mark.parametrize("masked", ["not", "for all alike", "for each image"])
def test_self_attention_is_that_of_torch_with_its_weights(masked):
    reference, attention = torch_attention(), SelfAttention(WIDTH, HEADS).double()
    copy_from_torch(attention, reference)
    x, visible, theirs = tokens(), None, None
    if masked == "for all alike":
        visible = torch.rand(5, 5) < 0.5
        visible.fill_diagonal_(True)
        theirs = ~visible
    elif masked == "for each image":
        visible = torch.rand(2, 5, 5) < 0.5
        visible.diagonal(dim1=1, dim2=2).fill_(True)
        theirs = (~visible).repeat_interleave(HEADS, 0)  # torch wants all heads of an image together
    expected = reference(x, x, x, attn_mask=theirs, need_weights=False)[0]
    torch.testing.assert_close(attention(x, visible), expected, rtol=1e-12, atol=1e-12)


def test_attention_to_a_memory_is_that_of_torch_with_its_weights():
    reference, attention = torch_attention(), Attention(WIDTH, HEADS).double()
    with torch.no_grad():
        for part, weight, bias in zip(
            (attention.query, attention.key, attention.value),
            reference.in_proj_weight.chunk(3),
            reference.in_proj_bias.chunk(3),
            strict=True,
        ):
            part.weight.copy_(weight)
            part.bias.copy_(bias)
        attention.project.load_state_dict(reference.out_proj.state_dict())
    query, key, value = tokens(3), tokens(7), tokens(7)
    visible = torch.rand(3, 7) < 0.6
    visible[:, 0] = True
    expected = reference(query, key, value, attn_mask=~visible, need_weights=False)[0]
    torch.testing.assert_close(attention(query, key, value, visible), expected, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(attention(query, key, value), expected)


def explicit(attention, x, scale, visible=None, rotation=None):
    """The formula, one head at a time."""
    query, key, value = attention.query_key_value(x).chunk(3, -1)
    outputs = []
    for head in range(HEADS):
        channels = slice(head * HEAD, (head + 1) * HEAD)
        q, k = attention.query_norm(query[..., channels]), attention.key_norm(key[..., channels])
        if rotation is not None:
            q, k = rotate(q[:, None], rotation)[:, 0], rotate(k[:, None], rotation)[:, 0]
        scores = scale * torch.einsum("bic,bjc->bij", q, k)
        if visible is not None:
            scores = scores.masked_fill(~visible, float("-inf"))
        outputs.append(torch.softmax(scores, -1) @ value[..., channels])
    return attention.project(torch.cat(outputs, -1))


@pytest.mark.parametrize(("scale", "factor"), [("sqrt", HEAD**-0.5), ("mup", 8 / HEAD)])
@pytest.mark.parametrize("norm", ["none", "layer", "layer_plain", "rms"])
def test_scale_norms_and_rotations_are_applied_as_the_formula_says(scale, factor, norm):
    attention = SelfAttention(WIDTH, HEADS, bias=False, query_key_norm=norm, scale=scale).double()
    for parameter in attention.parameters():
        nn.init.normal_(parameter)
    x = tokens()
    rotation = rotations(torch.arange(5.0, dtype=torch.float64)[:, None], [HEAD])
    visible = torch.ones(5, 5, dtype=torch.bool).tril()
    torch.testing.assert_close(attention(x), explicit(attention, x, factor))
    torch.testing.assert_close(
        attention(x, visible, rotation), explicit(attention, x, factor, visible, rotation), rtol=1e-9, atol=1e-9
    )
    assert sum(parameter.numel() for name, parameter in attention.named_parameters() if "bias" in name) == (
        2 * HEAD if norm == "layer" else 0
    )


def test_hidden_keys_are_as_good_as_absent():
    """Truncating a sequence and hiding its tail are the same, which variable length rests on."""
    attention, x = SelfAttention(WIDTH, HEADS).double(), tokens(8)
    present = torch.arange(8) < 5
    hidden = attention(x, present.expand(8, 8))
    torch.testing.assert_close(hidden[:, :5], attention(x[:, :5]), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(attention(x)[:, :5], hidden[:, :5])


@pytest.mark.parametrize("heads", [0, 5])
def test_heads_that_do_not_divide_the_width_are_refused(heads):
    for attention in (SelfAttention, Attention):
        with pytest.raises(ValueError, match=f"heads must divide the width 24, got {heads}"):
            attention(WIDTH, heads)


def test_without_a_bias_of_keys_it_is_one_whose_keys_bias_stays_zero():
    attention, tokens = SelfAttention(16, 2, key_bias=False), torch.randn(2, 5, 16)
    whole = SelfAttention(16, 2)
    with torch.no_grad():
        attention.query_value_bias.normal_()
        whole.load_state_dict(attention.state_dict(), strict=False)
        query, value = attention.query_value_bias
        whole.query_key_value.bias.copy_(torch.cat([query, torch.zeros(16), value]))
    torch.testing.assert_close(attention(tokens), whole(tokens))
    assert SelfAttention(16, 2, bias=False, key_bias=False).query_value_bias is None
