"""The order of samples: every one once per epoch, whatever is interrupted or how many processes there are."""

from collections import Counter
from itertools import chain, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imtok.data.order.sampler import Blocks, TrainBatches, epoch_order, stream

COUNT, GLOBAL_BATCH = 23, 12  # coprime: batches straddle epochs
STEPS = 3 * COUNT // GLOBAL_BATCH + 2
PINNED = [0, 2, 1, 5, 4, 3, 6, 7]


def global_batches(world: int, start: int, end: int, accumulate: int = 1, seed: int = 5) -> list[list[tuple[int, int]]]:
    """The samples of each step over all ranks, in the order of the stream."""
    ranks = [list(TrainBatches(COUNT, seed, GLOBAL_BATCH, accumulate, r, world, start, end)) for r in range(world)]
    steps = []
    for step in range(end - start):
        owned = [list(chain(*batches[step * accumulate : (step + 1) * accumulate])) for batches in ranks]
        steps.append([sample for places in zip(*owned, strict=True) for sample in places])
    return steps


@given(count=st.integers(1, 60), seed=st.integers(0, 2**64 - 1), epoch=st.integers(0, 10**6))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_an_epoch_holds_every_index_once(count: int, seed: int, epoch: int):
    assert sorted(epoch_order(count, seed, epoch).tolist()) == list(range(count))


@given(sizes=st.lists(st.integers(0, 6), min_size=1, max_size=9).filter(any), buffer=st.integers(1, 10))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_an_epoch_of_blocks_holds_every_index_once_and_few_blocks_at_a_time(sizes: list[int], buffer: int):
    count = sum(sizes)
    order = epoch_order(count, seed=1, epoch=2, blocks=Blocks(tuple(sizes), buffer))
    assert sorted(order.tolist()) == list(range(count))
    block = np.repeat(np.arange(len(sizes)), sizes)[order]
    open_at_once = [len(set(block[: at + 1]) & set(block[at:])) for at in range(count)]
    assert max(open_at_once) <= buffer


def test_orders_differ_between_epochs_and_between_seeds():
    orders = {tuple(epoch_order(20, seed, epoch).tolist()) for seed in range(10) for epoch in range(10)}
    assert len(orders) == 100


def test_every_position_is_equally_likely_for_an_index():
    places = np.array([np.argsort(epoch_order(5, seed, epoch=0)) for seed in range(4000)])
    counts = np.array([np.bincount(places[:, index], minlength=5) for index in range(5)])
    assert ((counts - 800) ** 2 / 800).sum() < 45  # chi-square with 16 degrees of freedom: p = 1e-4


def test_the_order_never_changes_between_versions():
    # A resumed run must see the order of the run that it resumes; these are the numbers of the first release.
    assert epoch_order(8, seed=0, epoch=0).tolist() == PINNED
    assert not epoch_order(8, seed=0, epoch=0).flags.writeable


@pytest.mark.parametrize("number", [1, 7, 23, 60])
def test_the_stream_is_the_same_read_in_one_or_in_many_pieces(number: int):
    whole = stream(COUNT, 0, 0, 120)
    pieces = [sample for at in range(0, 120, number) for sample in stream(COUNT, 0, at, min(number, 120 - at))]
    assert pieces == whole
    assert Counter(whole[: 5 * COUNT]) == Counter({(e, i): 1 for e in range(5) for i in range(COUNT)})


@pytest.mark.parametrize("attempt", range(10))
def test_after_any_five_interruptions_on_any_worlds_the_run_is_the_same(attempt: int):
    random = np.random.default_rng(attempt)
    stops = [0, *sorted(random.integers(0, STEPS + 1, 5).tolist()), STEPS]
    resumed: list[list[tuple[int, int]]] = []
    for start, end in pairwise(stops):
        world, accumulate = int(random.choice([1, 2, 3])), int(random.choice([1, 2]))
        resumed += global_batches(world, start, end, accumulate)
    assert resumed == global_batches(1, 0, STEPS)
    seen = [sample for step in resumed for sample in step]
    assert Counter(seen[: 3 * COUNT]) == Counter({(e, i): 1 for e in range(3) for i in range(COUNT)})


def test_a_resumed_sampler_goes_on_where_the_steps_ended():
    whole = list(TrainBatches(COUNT, 0, GLOBAL_BATCH, 3, total_steps=STEPS))
    rest = TrainBatches(COUNT, 0, GLOBAL_BATCH, 3, start_step=2, total_steps=STEPS)
    assert list(rest) == whole[6:]
    assert list(rest) == whole[6:], "a second pass must be the same"
    assert len(rest) == len(whole) - 6
    assert {len(batch) for batch in whole} == {4}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"world": 5}, "divisible"),
        ({"world": 3, "accumulate": 3}, "divisible"),
        ({"world": 2, "rank": 2}, "rank"),
        ({"start_step": 9}, "start step"),
        ({"count": 0}, "count"),
    ],
)
def test_settings_that_cannot_work_are_refused(arguments: dict[str, int], message: str):
    with pytest.raises(ValueError, match=message):
        TrainBatches(**{"count": COUNT, "seed": 0, "global_batch": GLOBAL_BATCH, "total_steps": 8} | arguments)
