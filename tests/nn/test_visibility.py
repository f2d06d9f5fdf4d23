"""Masks: who sees whom, counted and compared with the rules in words."""

import pytest
import torch

from imtok.nn.visibility import causal_groups, hide_keys, visibility


def test_causal_registers_see_all_patches_and_the_registers_before_them():
    visible = visibility([3, 4], [["full", "none"], ["full", "causal"]])
    for query in range(7):
        for key in range(7):
            expected = key < 3 or (query >= 3 and key <= query)
            assert visible[query, key].item() == expected, (query, key)


def test_segments_of_different_lengths_are_causal_by_the_index_in_their_own_segment():
    """Token i of one segment sees tokens 0 to i of another, the own index included."""
    visible = visibility([2, 3], [["causal", "causal"], ["causal", "causal"]])
    assert visible.int().tolist() == [
        [1, 0, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 0, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1],
    ]


def test_a_sequence_of_one_causal_segment_is_the_triangle():
    assert torch.equal(visibility([6], [["causal"]]), torch.ones(6, 6, dtype=torch.bool).tril())
    assert visibility([2, 3], [["full", "full"], ["full", "full"]]).all()


def test_blind_segments_see_only_themselves():
    blocks = [torch.ones(2, 2), torch.ones(3, 3)]
    expected = torch.block_diag(*blocks).bool()
    assert torch.equal(visibility([2, 3], [["full", "none"], ["none", "full"]]), expected)


def test_levels_of_powers_of_two_have_the_published_row_sums():
    """GigaTok's levels of 256 queries: 1, 1, 2, 4, ..., 128; a row sees its own level and all before it."""
    sums = causal_groups([1, 1, *(2**level for level in range(1, 8))]).sum(1).tolist()
    assert sums == [1, 2] + [2 ** (level + 1) for level in range(1, 8) for _ in range(2**level)]


def test_levels_that_start_with_two_have_row_sums_2_2_4_4_8():
    assert causal_groups([2, 2, 4, 8]).sum(1).tolist() == [2] * 2 + [4] * 2 + [8] * 4 + [16] * 8


def test_groups_of_one_are_causal_and_one_group_is_full():
    assert torch.equal(causal_groups([1] * 5), torch.ones(5, 5, dtype=torch.bool).tril())
    assert causal_groups([5]).all()


def test_hidden_keys_are_seen_by_nobody_and_the_rest_by_whom_it_was():
    visible = torch.ones(4, 4, dtype=torch.bool).tril()
    present = torch.tensor([[True, True, False, True], [True, False, False, False]])
    hidden = hide_keys(visible, present)
    assert torch.equal(hidden, visible & present[:, None, :])
    assert not hidden[0, :, 2].any()
    assert torch.equal(hidden[:, :, 0], visible[:, 0].expand(2, 4))
    assert torch.equal(hide_keys(None, present).expand(2, 4, 4), present[:, None].expand(2, 4, 4))


@pytest.mark.parametrize("sights", [[["full"]], [["full", "full"]], [["full", "full"], ["full"]]])
def test_a_table_that_is_not_square_is_refused(sights):
    with pytest.raises(ValueError, match="sights must be a table of 2 x 2 segments"):
        visibility([1, 2], sights)
