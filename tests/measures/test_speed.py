"""Images per second are of the tokenizer's own passes."""

import time

import pytest
import torch

from imtok.measures import speed
from imtok.measures.report.results import speed as in_words
from imtok.measures.speed import Stopwatch


def test_the_first_batch_is_left_out(monkeypatch):
    """It also pays for what comes once."""
    now = 0.0
    monkeypatch.setattr(speed.time, "perf_counter", lambda: now)
    stopwatch = Stopwatch(torch.device("cpu"))
    for number, duration in ((8, 4.0), (8, 1.0), (4, 0.5)):
        with stopwatch.of(number):
            now += duration
        now += 100  # what happens in between counts for nothing
    assert (stopwatch.found["images"], stopwatch.found["images_per_second"]) == (12, 8)
    threads = torch.get_num_threads()
    name = f"cpu with {threads} thread{'s' * (threads > 1)}"
    assert in_words(stopwatch.found) == f"8 images/s encoded and decoded ({name})"


def test_of_a_single_batch_nothing_is_known():
    stopwatch = Stopwatch(torch.device("cpu"))
    assert stopwatch.found == {}
    with stopwatch.of(2):
        pass
    assert stopwatch.found == {}
    assert in_words({}) == ""


def test_a_pass_that_fails_is_not_counted():
    stopwatch = Stopwatch(torch.device("cpu"))
    with pytest.raises(ValueError, match="no"), stopwatch.of(8):
        raise ValueError("no")
    for number in (4, 2):
        with stopwatch.of(number):
            time.sleep(0.001)
    assert stopwatch.found["images"] == 2
