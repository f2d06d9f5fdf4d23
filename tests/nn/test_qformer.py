"""The Q-Former against torch's own attention, and the order of its pooled queries."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from imtok.nn.attention import Attention
from imtok.nn.qformer import QFormer, QFormerBlock, draw_weights, pooled_queries


def torch_attention(attention: Attention) -> nn.MultiheadAttention:
    """The same weights in torch's module, which is what the published code uses."""
    width = attention.project.in_features
    module = nn.MultiheadAttention(width, attention.heads, batch_first=True).double()
    linears = (attention.query, attention.key, attention.value)
    with torch.no_grad():
        module.in_proj_weight.copy_(torch.cat([linear.weight for linear in linears]))
        module.in_proj_bias.copy_(torch.cat([linear.bias for linear in linears]))
        module.out_proj.load_state_dict(attention.project.state_dict())
    return module


def test_a_block_is_that_of_detr_with_norms_first():
    block = QFormerBlock(width=16, heads=2).double()
    queries, memory = (torch.randn(2, count, 16, dtype=torch.float64) for count in (5, 7))
    at, where = (torch.randn(count, 16, dtype=torch.float64) for count in (5, 7))
    absent = torch.zeros(2, 7, dtype=torch.bool)
    absent[1, 4:] = True
    normed = block.norm1(queries)
    expected = queries + torch_attention(block.self_attention)(normed + at, normed + at, normed)[0]
    crossed = torch_attention(block.cross_attention)
    expected = expected + crossed(block.norm2(expected) + at, memory + where, memory, key_padding_mask=absent)[0]
    first, _, last = block.mlp
    expected = expected + last(F.gelu(first(block.norm3(expected))))
    visible = ~absent[:, None].expand(-1, 5, -1)
    torch.testing.assert_close(block(queries, memory, at, where, visible), expected, rtol=1e-12, atol=1e-12)


def test_positions_decide_where_to_look_and_are_not_carried_on():
    """With values, MLP and projections out of the way, nothing of the positions is left in the queries."""
    block = QFormerBlock(width=16, heads=2)
    for part in (block.self_attention.project, block.cross_attention.project, block.mlp[2]):
        nn.init.zeros_(part.weight)
        nn.init.zeros_(part.bias)
    queries, memory = torch.randn(1, 5, 16), torch.randn(1, 7, 16)
    assert torch.equal(block(queries, memory, torch.randn(5, 16), torch.randn(7, 16)), queries)


def test_absent_memory_is_the_same_as_none_at_all():
    qformer = QFormer(width=16, depth=2, heads=2).double()
    queries, memory = (torch.randn(1, count, 16, dtype=torch.float64) for count in (5, 7))
    at, where = (torch.randn(count, 16, dtype=torch.float64) for count in (5, 7))
    present = (torch.arange(7) < 3)[None]
    masked = qformer(queries, memory, at, where, present)
    torch.testing.assert_close(masked, qformer(queries, memory[:, :3], at, where[:3]), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(masked, qformer(queries, memory, at, where))


def test_checkpointing_changes_no_gradient():
    gradients = []
    for checkpoint in (False, True):
        torch.manual_seed(0)
        qformer = QFormer(width=16, depth=2, heads=2, checkpoint=checkpoint)
        inputs = torch.randn(1, 5, 16), torch.randn(1, 7, 16), torch.randn(5, 16), torch.randn(7, 16)
        qformer(*inputs).square().sum().backward()
        gradients.append([parameter.grad for parameter in qformer.parameters()])
    assert all(map(torch.equal, *gradients))


def test_256_pooled_queries_are_the_nine_grids_of_gigatok_in_order():
    features = torch.rand(2, 3, 16, 16)
    grids = [(1, 1), (1, 1), (1, 2), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16)]
    pooled = [F.avg_pool2d(features, (16 // rows, 16 // columns)).flatten(2).mT for rows, columns in grids]
    torch.testing.assert_close(pooled_queries(features, 256), torch.cat(pooled, 1))


@pytest.mark.parametrize("count", [1, 2, 3, 5, 32, 100])
def test_fewer_pooled_queries_are_the_first_of_more(count):
    features = torch.rand(1, 2, 16, 16)
    assert torch.equal(pooled_queries(features, count), pooled_queries(features, 256)[:, :count])


def test_query_key_and_value_are_drawn_as_one_matrix():
    block = QFormerBlock(width=64, heads=2)
    draw_weights(block)
    bound = (6 / (64 + 3 * 64)) ** 0.5
    for linear in (block.self_attention.query, block.cross_attention.value):
        assert 0.95 * bound < linear.weight.abs().max() <= bound
        assert not linear.bias.any()
    assert 0.018 < block.mlp[0].weight.std() < 0.022
