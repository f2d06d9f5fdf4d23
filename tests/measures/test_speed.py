"""Images per second are of the tokenizer's own passes."""

import time

import pytest
import torch

from imtok.measures import speed
from imtok.measures.report.results import speed as in_words
from imtok.measures.speed import Stopwatch


@pytest.mark.parametrize(
    ("passes", "images", "rate"),
    [([(8, 4.0)], 8, 2.0), ([(8, 4.0), (8, 1.0), (4, 0.5)], 12, 8.0)],  # the first also pays for what comes once
)
def test_the_first_batch_is_left_out_if_others_follow(monkeypatch, passes, images, rate):
    now = 0.0
    monkeypatch.setattr(speed.time, "perf_counter", lambda: now)
    stopwatch = Stopwatch(torch.device("cpu"))
    for number, duration in passes:
        with stopwatch.of(number):
            now += duration
        now += 100  # what happens in between counts for nothing
    assert (stopwatch.found["images"], stopwatch.found["images_per_second"]) == (images, rate)
    threads = torch.get_num_threads()
    name = f"cpu with {threads} thread{'s' * (threads > 1)}"
    assert in_words(stopwatch.found) == f"{rate:.3g} images/s encoded and decoded ({name})"


def test_without_a_pass_nothing_is_known():
    assert Stopwatch(torch.device("cpu")).found == {}
    assert in_words({}) == ""


def test_a_pass_that_fails_is_not_counted():
    stopwatch = Stopwatch(torch.device("cpu"))
    with pytest.raises(ValueError, match="no"), stopwatch.of(8):
        raise ValueError("no")
    with stopwatch.of(2):
        time.sleep(0.001)
    assert stopwatch.found["images"] == 2
