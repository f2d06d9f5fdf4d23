"""Where the time of steps goes: the clock of a process, what is said of it, and the columns of a run."""

import csv
import time

import pytest
import torch
from training.runs import run_tiny

from imtok.training.pace import Clock, Pace, Window


@pytest.fixture
def times(monkeypatch):
    """A clock that stands still until it is moved."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def pass_by(seconds):
        now[0] += seconds

    return pass_by


def micro_batch(clock, times, waits=1.0, forward=2.0, backward=3.0, aside=0.0, last=True):
    times(waits)
    clock.begin()
    times(forward)
    clock.half()
    times(backward / 2)
    clock.half()  # a second net asks for gradients
    times(backward / 2)
    if last:
        clock.settle()
    clock.aside()
    times(aside)
    clock.back()


def test_each_second_is_counted_where_it_belongs(times):
    clock = Clock(torch.device("cpu"))
    micro_batch(clock, times, aside=50.0)
    micro_batch(clock, times, waits=0.0, last=False)
    micro_batch(clock, times, waits=3.0)
    window = clock.read()
    assert (window.step, window.waited, window.forward) == (9.5, 2.0, 3.0)  # 19 s, 4 s and 6 s over two steps


def test_a_reading_in_the_middle_of_the_callbacks_parts_what_is_aside(times):
    clock = Clock(torch.device("cpu"))
    times(1.0)
    clock.begin()
    times(2.0)
    clock.half()
    clock.settle()
    clock.aside()
    times(10.0)
    assert clock.read().step == 3.0
    times(20.0)  # the row is written, a checkpoint follows
    clock.back()
    micro_batch(clock, times)
    assert clock.read().step == 6.0


STEADY = Window(1.0, 0.05, 0.4)


@pytest.mark.parametrize(
    ("late", "said"),
    [
        (Window(1.0, 0.3, 0.9, "node7"), "all processes wait for rank 1 (node7), which takes 1.20 s of a step (0.30 s"),
        (Window(1.0, 0.5, 0.0), "steps wait for data 50% of their time; raise trainer.workers"),
    ],
)
def test_it_is_said_once_per_incident_after_two_rows(late, said):
    pace = Pace()
    rows = [[STEADY, late, STEADY]] * 4 + [[STEADY] * 3] + [[STEADY, late, STEADY]] * 2
    found = [pace.read(row) for row in rows]
    assert [len(lines) for lines in found] == [0, 1, 0, 0, 0, 0, 1]
    assert found[1][0].startswith(said)


def test_the_slower_of_two_is_found():
    """A median of both would lie half way to it."""
    pace = Pace()
    found = [pace.read([STEADY, Window(1.0, 0.05, 0.8)]) for _ in range(2)]
    assert found[1][0].startswith("all processes wait for rank 1, which takes 0.85 s of a step")
    assert "where others take 0.45 s" in found[1][0]


def test_one_process_is_no_straggler_and_equal_ones_are_none():
    pace = Pace()
    assert not any(pace.read([Window(2.0, 0.0, 1.9)]) for _ in range(3))
    assert not any(pace.read([STEADY, Window(1.0, 0.05, 0.5)]) for _ in range(3))


def test_a_run_writes_how_much_of_a_step_waits_for_data(tmp_path):
    run_tiny(tmp_path / "run", "trainer.max_steps=4", "trainer.log_every=2", "trainer.save_every=2")
    with (tmp_path / "run/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    assert all(0 <= float(row["data_wait"]) < 1 and float(row["images_per_second"]) > 0 for row in rows)
    assert "mfu" not in rows[0]
    assert "reserved_gb" not in rows[0]
