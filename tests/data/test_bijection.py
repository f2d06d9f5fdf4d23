"""An order without a list: every sample once, as random as a permutation, at the same places for ever."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imtok.data.order import sampler
from imtok.data.order.bijection import Bijection, BlockBijection
from imtok.data.order.sampler import KEYED, PERMUTED, Blocks, Steps, TrainBatches, epoch_order, order_of, stream

PINNED = [674198, 409779, 695066, 175202, 250338, 672987]


@pytest.fixture
def unlisted(monkeypatch: pytest.MonkeyPatch):
    """No order is a list, however few samples there are."""
    monkeypatch.setattr(sampler, "LISTED", 0)
    order_of.cache_clear()
    yield
    order_of.cache_clear()


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 16, 17, 97, 1000, 1023, 1024, 1025, 65_537, 99_999])
def test_every_sample_is_there_once(count: int):
    for epoch in range(2):
        assert (np.bincount(Bijection(count, 7, epoch)[:], minlength=count) == 1).all()


@pytest.mark.slow
@pytest.mark.parametrize("count", [2**22 + 1, 10**7])
def test_every_one_of_ten_million_samples_is_there_once(count: int):
    order, seen = Bijection(count, seed=3, epoch=1), np.zeros(count, dtype=np.uint8)
    for first in range(0, count, 2**20):
        np.add.at(seen, order[first : first + 2**20], 1)
    assert (seen == 1).all()


@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=9).filter(any), buffer=st.integers(1, 10))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_blocks_are_read_few_at_a_time_and_every_sample_once(sizes: list[int], buffer: int):
    order = BlockBijection(sizes, buffer, seed=1, epoch=2)[:]
    assert sorted(order.tolist()) == list(range(sum(sizes)))
    block = np.repeat(np.arange(len(sizes)), sizes)[order]
    assert max(len(set(block[: at + 1]) & set(block[at:])) for at in range(len(order))) <= buffer


def test_a_range_of_places_is_that_part_of_the_whole():
    for order in (Bijection(1000, 1, 2), BlockBijection((300, 1, 0, 699), 2, 1, 2)):
        whole = order[:]
        for first, end in pairwise([0, 1, 17, 256, 999, 1000]):
            assert order[first:end].tolist() == whole[first:end].tolist()
        assert order[990:2000].tolist() == whole[990:].tolist()


@pytest.mark.parametrize("count", [1000, 4096, 10_007])
def test_where_a_sample_comes_is_as_even_as_chance(count: int):
    orders = np.stack([Bijection(count, seed, epoch)[:] for seed in range(10) for epoch in range(20)])
    for at in (0, count // 2, count - 1):  # over 200 orders, of each place and of each sample, in 10 classes
        for found in (orders[:, at], np.argwhere(orders == at)[:, 1]):
            counts = np.bincount(found * 10 // count, minlength=10)
            assert ((counts - 20) ** 2 / 20).sum() < 34  # chi-square with 9 degrees of freedom: p = 1e-4


def test_small_orders_are_all_equally_likely():
    orders, counts = np.unique([Bijection(4, seed, 0)[:] for seed in range(2400)], axis=0, return_counts=True)
    assert len(orders) == 24
    assert ((counts - 100) ** 2 / 100).sum() < 58  # chi-square with 23 degrees of freedom: p = 1e-4


def test_neighbours_and_epochs_are_independent():
    count = 100_003
    one, other, third = (Bijection(count, seed, epoch)[:] for seed, epoch in ((0, 0), (0, 1), (1, 0)))
    limit = 5 / np.sqrt(count)
    for first, second in (
        (one[1:], one[:-1]),
        (one[2:], one[:-2]),
        (one, other),
        (one, third),
        (one, np.arange(count)),
    ):
        assert abs(np.corrcoef(first, second)[0, 1]) < limit
    cells = np.bincount((one[1:] * 16 // count) * 16 + one[:-1] * 16 // count, minlength=256)
    expected = (count - 1) / 256
    assert ((cells - expected) ** 2 / expected).sum() < 350  # chi-square with 255 degrees of freedom: p = 1e-4
    for again in (other, third):
        assert (one == again).sum() < 10  # one place in count, on average
    ascents = np.diff(one)
    assert abs((ascents > 0).mean() - 0.5) < limit
    assert (np.abs(ascents) == 1).sum() < 12  # two, on average


@pytest.mark.usefixtures("unlisted")
def test_a_run_on_any_number_of_processes_and_after_any_interruption_sees_every_sample_once_in_an_epoch():
    def ranks(world: int, start: int, end: int) -> list[list[tuple[int, int]]]:
        parts = [list(TrainBatches(23, *Steps(5, 12, 1, rank, world, start, end, KEYED))) for rank in range(world)]
        return [[sample for places in zip(*own, strict=True) for sample in places] for own in zip(*parts, strict=True)]

    whole = ranks(1, 0, 6)
    assert ranks(2, 0, 2) + ranks(3, 2, 5) + ranks(1, 5, 6) == whole
    seen = [sample for step in whole for sample in step]
    assert sorted(seen[:69]) == [(epoch, index) for epoch in range(3) for index in range(23)]
    assert seen != [sample for step in list(TrainBatches(23, 5, 12, total_steps=6)) for sample in step]
    blocked = stream(10, 0, 0, 30, Blocks((4, 6), 1), KEYED)
    assert sorted(blocked) == [(epoch, index) for epoch in range(3) for index in range(10)]


def test_up_to_four_million_samples_both_kinds_are_the_permutation_of_older_runs(monkeypatch: pytest.MonkeyPatch):
    assert order_of(KEYED, 100, 0, 1)[0:100].tolist() == epoch_order(100, 0, 1).tolist()
    assert sampler.LISTED == 4_194_304
    monkeypatch.setattr(sampler, "LISTED", 99)
    order_of.cache_clear()
    assert order_of(PERMUTED, 100, 0, 1)[0:100].tolist() == epoch_order(100, 0, 1).tolist()
    assert order_of(KEYED, 100, 0, 1)[0:100].tolist() == Bijection(100, 0, 1)[:].tolist()
    order_of.cache_clear()
    with pytest.raises(ValueError, match="permuted or keyed, got else"):
        order_of("else", 100, 0, 1)


def test_the_order_never_changes_between_versions():
    # A resumed run must see the order of the run that it resumes.
    assert Bijection(10**6, seed=0, epoch=0)[0:6].tolist() == PINNED
    for count in (0, 2**62 + 1):
        with pytest.raises(ValueError, match="count must lie between"):
            Bijection(count, 0, 0)
