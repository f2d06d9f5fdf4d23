"""LaVIT's selector and merger: what the public code computes, and what dropped tokens may still say."""

import pytest
import torch
from encoders.filled import filled, wave

from imtok.nn.selection import PolicyAttention, TokenMerger, TokenSelector, best, choose

KEPT = torch.tensor([[1, 0, 1, 1, 0, 0, 1, 0], [0, 1, 0, 0, 0, 0, 0, 0]], dtype=torch.float64)


def test_selector_and_merger_stay_what_they_were_when_they_equalled_the_public_code():
    """As docs/parity.md says."""
    chances = filled(TokenSelector(16).double())(wave(2, 8, 16))
    merged = filled(TokenMerger(16, depth=2, heads=2, mlp_ratio=2.0).double())(wave(2, 8, 16), KEPT)
    found = torch.cat([chances.flatten()[[0, 9, 31]], merged.flatten()[[0, 100, 255]]])
    torch.testing.assert_close(found, torch.tensor(GOLDEN, dtype=torch.float64), rtol=1e-9, atol=1e-12)


def test_a_kept_token_sees_no_later_one_and_none_sees_a_dropped_one_but_through_the_merger():
    torch.manual_seed(0)
    merger = TokenMerger(16, depth=2, heads=2).double()
    for value in merger.parameters():
        torch.nn.init.normal_(value, std=0.3)
    tokens = torch.randn(1, 8, 16, dtype=torch.float64)
    before = merger(tokens, KEPT[:1])
    later, dropped = tokens.clone(), tokens.clone()
    later[:, 6] = torch.randn(16)  # kept
    dropped[:, 7] = torch.randn(16)  # the last of all, dropped
    after = merger(later, KEPT[:1])
    torch.testing.assert_close(after[:, [0, 2, 3]], before[:, [0, 2, 3]], rtol=0, atol=1e-4)
    assert (after[:, 6] - before[:, 6]).abs().max() > 0.1
    changed = (merger(dropped, KEPT[:1]) - before).abs().amax(-1)[0]
    assert (changed[[0, 2, 3, 6]] > 1e-3).all()


def test_attention_by_a_policy_of_ones_is_attention():
    torch.manual_seed(0)
    attention = PolicyAttention(8, 2).double()
    tokens, memory = torch.randn(2, 3, 8, dtype=torch.float64), torch.randn(2, 5, 8, dtype=torch.float64)
    query, key, value = attention.query(tokens), attention.key(memory), attention.value(memory)
    heads = [part.unflatten(-1, (2, 4)).transpose(1, 2) for part in (query, key, value)]
    expected = torch.nn.functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
    found = attention(tokens, memory, torch.ones(2, 3, 5, dtype=torch.float64))
    torch.testing.assert_close(found, attention.project(expected), rtol=0, atol=1e-5)


def test_tokens_are_drawn_by_their_chances_and_a_choice_has_a_gradient():
    torch.manual_seed(0)
    chances = torch.tensor([0.9, 0.1, 0.5]).log()[None, :, None].repeat(4000, 1, 2)
    chances[..., 1] = torch.log1p(-chances[..., 0].exp())
    chances.requires_grad_(True)
    kept = choose(chances, drawn=True)
    assert set(kept.detach().unique().tolist()) == {0.0, 1.0}
    assert torch.allclose(kept.mean(0), torch.tensor([0.945, 0.1, 0.5]), atol=0.03)  # the first one where none would be
    kept.sum().backward()
    assert (chances.grad.abs() > 0).any()
    assert choose(chances[:2].detach(), drawn=False).tolist() == [[1.0, 0.0, 1.0]] * 2  # 1.5 are expected
    assert choose(torch.full((1, 4, 2), 0.1).log(), drawn=False).tolist() == [[1.0, 0.0, 0.0, 0.0]]
    assert best(chances[:2].detach(), torch.tensor([1, 3])).tolist() == [[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]]
    cycle = torch.tensor([0.2, 0.5, 0.9, 0.4]).log()[None, :, None].repeat(1, 1, 2)
    assert best(cycle, torch.tensor([2])).tolist() == [[0.0, 1.0, 1.0, 0.0]]


def test_linear_maps_are_drawn_as_lavit_draws_them():
    score = TokenSelector(256).score[0]
    assert score.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not score.bias.any()


def test_widths_that_cannot_be_cut_are_refused():
    with pytest.raises(ValueError, match="multiple of 4"):
        TokenSelector(6)
    with pytest.raises(ValueError, match="heads must divide"):
        PolicyAttention(8, 3)


GOLDEN = [
    -0.8031126716173584,
    -0.5912310094706371,
    -0.594713314871014,
    0.22849806740933964,
    -0.04000593196851326,
    0.4462397153205318,
]
