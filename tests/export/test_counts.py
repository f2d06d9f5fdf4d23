"""Sets and count vectors: each says the same as the other, exactly."""

import numpy as np
import pytest
import torch
from export.stores import batches, set_tokenizer, small_store

from imtok.errors import InputError
from imtok.export.convert import convert
from imtok.export.feed import BatchFeed
from imtok.export.formats.counts import Counts, from_counts, to_counts
from imtok.export.restore import restored
from imtok.export.store import TokenStore
from imtok.export.tokens import export_tokens
from imtok.export.verify import verify
from imtok.types import Tokens

TOKENS, CODES = 128, 4096  # of the published TokenSet


def test_1000_sets_become_counts_and_come_back_exactly():
    random = np.random.default_rng(0)
    sets = np.concatenate([random.integers(0, most, (250, TOKENS)) for most in (1, 7, 512, CODES)])
    counts = to_counts(sets, CODES)
    assert counts.shape == (1000, CODES)
    assert (counts.sum(1) == TOKENS).all()
    assert all(counts[row, code] == list(sets[row]).count(code) for row in range(0, 1000, 100) for code in range(8))
    assert np.array_equal(from_counts(counts, TOKENS), np.sort(sets, 1))
    assert np.array_equal(to_counts(random.permuted(sets, axis=1), CODES), counts)


def test_1000_vectors_of_one_sum_become_sets_and_come_back_exactly():
    """Drawn as vectors, so that none is one because a set was: the sets are all that there are."""
    random = np.random.default_rng(1)
    counts = random.multinomial(TOKENS, random.dirichlet(np.full(CODES, 0.05)), 1000).astype(np.uint16)
    assert np.array_equal(to_counts(from_counts(counts, TOKENS), CODES), counts)


def test_there_are_as_many_count_vectors_as_sets():
    """Of three tokens of four ids: the binomial 6 over 3."""
    ids = np.stack(np.meshgrid(*[np.arange(4)] * 3), -1).reshape(-1, 3)
    assert len(np.unique(to_counts(ids, 4), axis=0)) == len(np.unique(np.sort(ids, 1), axis=0)) == 20


def test_what_is_no_set_is_refused():
    with pytest.raises(ValueError, match=r"ids must lie in \[0, 4\), got 1 to 4"):
        to_counts(np.array([1, 4]), 4)
    with pytest.raises(ValueError, match=r"with the sum 3, got 0 at least, and sums from 2 to 3"):
        from_counts(np.array([[1, 1, 0], [3, 0, 0]]), 3)
    with pytest.raises(ValueError, match="got -1 at least"):
        from_counts(np.array([-1, 4]), 3)


def test_a_store_of_sets_is_converted_and_its_counts_make_the_same_images(tmp_path):
    tokenizer, names = set_tokenizer(), [f"{number}.png" for number in range(4)]
    export_tokens(tokenizer, BatchFeed(batches(names), 3, ["a", "b", "c"], side=16), tmp_path / "tokens")
    store = TokenStore(tmp_path / "tokens")
    report = convert(store, Counts(), tmp_path / "out")
    verify(tmp_path / "out")
    assert report["counts"] == {"ids": 16, "sum": 8}
    paths = sorted((tmp_path / "out").glob("counts-*.npy"))
    counts = np.concatenate([np.load(path) for path in paths])
    assert (counts.dtype, counts.shape) == (np.uint16, (4, 16))
    ids, keep = restored(tokenizer, paths[0], tmp_path / "out")
    stored = np.concatenate([np.asarray(shard.ids) for shard in store.shards()]).reshape(4, 8)[: len(ids)]
    assert keep is None
    assert np.array_equal(ids[..., 0], np.sort(stored, 1))
    before, after = (
        tokenizer.double().decode(Tokens(torch.from_numpy(each.astype(np.int64))[..., None]), 16)
        for each in (stored, ids[..., 0])
    )
    assert torch.allclose(before, after, atol=1e-10)


def test_tokens_with_an_order_are_refused(tmp_path):
    store = small_store(tmp_path / "tokens")
    with pytest.raises(InputError, match="format=counts takes tokens without an order, as those of tokenset"):
        convert(store, Counts(), tmp_path / "out")
    assert not (tmp_path / "out").exists()
