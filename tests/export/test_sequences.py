"""Every way to make one number of several is undone exactly."""

import numpy as np
import pytest
from export.stores import small_store
from hypothesis import given, settings
from hypothesis import strategies as st

from imtok.errors import InputError
from imtok.export.sequences import Sequencing


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 300), min_size=1, max_size=4),
    tokens=st.integers(1, 6),
    slots=st.sampled_from(["interleave", "shared", "combine"]),
    variable=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_split_undoes_join(sizes, tokens, slots, variable, seed):
    numbers = np.random.default_rng(seed)
    sequencing = Sequencing(tuple(sizes), tokens, slots, variable)
    ids = numbers.integers(0, sizes, (2, 3, tokens, len(sizes)))
    keep = numbers.random((2, 3, tokens)) < 0.7 if variable else None
    if keep is not None:
        ids[~keep] = 0
    joined = sequencing.join(ids.astype(np.uint16), keep)
    assert joined.shape == (2, 3, sequencing.length)
    assert 0 <= joined.min() <= joined.max() < sequencing.vocabulary
    back, kept = sequencing.split(joined)
    assert np.array_equal(back, ids)
    assert keep is None or np.array_equal(kept, keep)
    lengths = sequencing.lengths(keep, joined.shape[:-1])
    for row, length in zip(joined.reshape(6, -1), lengths.flatten(), strict=True):
        short, short_keep = sequencing.split(row[:length])
        whole, whole_keep = sequencing.split(row)
        assert np.array_equal(short, whole)
        assert keep is None or np.array_equal(short_keep, whole_keep)
        assert length == 0 or row[length - 1] != sequencing.padding


def test_slots_share_no_id_and_slot_0_is_least_significant():
    ids = np.array([[[31, 0], [0, 19]]])
    assert Sequencing((32, 20), 2, "interleave", False).join(ids).tolist() == [[31, 32, 0, 51]]
    assert Sequencing((32, 20), 2, "shared", False).join(ids).tolist() == [[31, 0, 0, 19]]
    assert Sequencing((32, 20), 2, "combine", False).join(ids).tolist() == [[31, 608]]


@pytest.mark.parametrize("row", [[0, 0], [32, 5], [-1, 32], [3, 52]])
def test_a_token_in_another_slots_place_is_refused(row):
    with pytest.raises(ValueError, match="must follow the order of slots"):
        Sequencing((32, 20), 1, "interleave", False).split(np.array([row]))


def test_several_slots_ask_what_should_become_of_them(tmp_path):
    store = small_store(tmp_path / "tokens", "two slots")
    with pytest.raises(
        InputError, match=r"interleave \(8 tokens of one vocabulary of 52\) or combine \(4 tokens of 640"
    ):
        Sequencing.of(store, None)
    with pytest.raises(InputError, match=r"format\.slots must be interleave, shared, combine or null, got both"):
        Sequencing.of(store, "both")
