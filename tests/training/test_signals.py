"""Asked to stop, a run ends between two steps with one checkpoint, from which it goes on as if nothing had been."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
from training.launch import ROOT, launch_ddp, launch_train, wait_until
from training.runs import losses_of, state_of, tiny_overrides

CODES = {"term": 143, "int": 130, "usr1": 138}
# Each in step 6, which has two micro-batches and is saved. Before step 1, 64 images were looked at for the
# pictures, one forward pass was rehearsed, and four images were read for the codebook's start.
MOMENTS = {
    "data": 64 + 26,
    "forward": 12,
    "between micro-batches": 13,
    "step": 6,
    "clip": 6,
    "ema": 6,
    "log": 11,
    "save": 3,
    "manifest": 2,
    "retire": 2,
}
QUICK = ["data", "between micro-batches", "clip", "save"]
SETTINGS = ("trainer.accumulate=2", "trainer.save_every=3", "trainer.keep=9")


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight") / "run"
    assert launch_train(folder, *SETTINGS).wait() == 0
    return folder


def steps(folder):
    return sorted(int(path.name.removeprefix("step_")) for path in (folder / "checkpoints").glob("step_*"))


@pytest.mark.parametrize("moment", QUICK)
def test_a_signal_at_any_moment_saves_once_and_the_run_goes_on_bit_for_bit(straight, tmp_path, moment):
    interrupt_and_go_on(straight, tmp_path, moment)


@pytest.mark.slow
@pytest.mark.parametrize("moment", sorted(MOMENTS.keys() - QUICK))
def test_a_signal_at_other_moments_does_so_too(straight, tmp_path, moment):
    interrupt_and_go_on(straight, tmp_path, moment)


def interrupt_and_go_on(straight, tmp_path, moment):
    action = ("term", "int", "usr1")[list(MOMENTS).index(moment) % 3]
    point = moment.split()[0].replace("between", "forward")
    fault = f"training.faults:plant:{point},{MOMENTS[moment]},{action}"
    process = launch_train(tmp_path / "run", *SETTINGS, fault=fault)
    assert process.wait() == CODES[action], process.output
    assert "go on with: imtok train " in process.output
    assert " ckpt=last " in process.output
    assert steps(tmp_path / "run") == [3, 6]
    assert (tmp_path / "run/events.jsonl").read_text().count('"signal": ') == 1
    assert not (tmp_path / "run/tokenizer").exists()
    process = launch_train(tmp_path / "run", *SETTINGS, "ckpt=last")
    assert process.wait() == 0, process.output
    assert state_of(tmp_path / "run") == state_of(straight)


@pytest.mark.parametrize("point", ["forward,11", "save,3"])
def test_a_second_signal_stops_at_once_and_the_old_checkpoint_stays(straight, tmp_path, point):
    process = launch_train(tmp_path / "run", *SETTINGS, fault=f"training.faults:plant:{point},twice")
    assert process.wait(20) == 143, process.output
    assert steps(tmp_path / "run") == [3]
    assert launch_train(tmp_path / "run", *SETTINGS, "ckpt=last").wait() == 0
    assert state_of(tmp_path / "run") == state_of(straight)


def test_a_signal_to_all_processes_does_not_take_the_workers_away(tmp_path):
    """SLURM and terminals send it to the workers too; without their data the step could not be finished."""
    settings = ("trainer.max_steps=400", "trainer.workers=2")
    process = launch_train(tmp_path / "run", *settings, fault="training.faults:own_group:0.02")
    wait_until(lambda: (tmp_path / "run/metrics.csv").exists())
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(10) == 143, process.output
    assert len(steps(tmp_path / "run")) == 1


def test_a_signal_while_the_finished_run_is_evaluated_ends_it_and_the_next_start_evaluates(straight, tmp_path):
    process = launch_train(tmp_path / "run", *SETTINGS, fault="training.faults:plant:finish,1,term")
    assert process.wait() == -signal.SIGTERM, process.output
    assert not (tmp_path / "run/summary.json").exists()
    process = launch_train(tmp_path / "run", *SETTINGS, "ckpt=last")
    assert process.wait() == 0, process.output
    assert (tmp_path / "run/summary.json").exists()
    assert state_of(tmp_path / "run") == state_of(straight)


@pytest.mark.parametrize("targets", [[0], [1], [0, 1]])
def test_a_signal_to_any_rank_stops_all_within_ten_seconds_with_one_checkpoint(tmp_path, targets):
    ranks = launch_ddp(tmp_path / "run", 2, "trainer.max_steps=2000", fault="training.faults:slow:0.02")
    wait_until(lambda: (tmp_path / "run/metrics.csv").exists())
    start = time.monotonic()
    for target in targets:
        ranks[target].signal(signal.SIGTERM)
    assert [rank.wait(10) for rank in ranks] == [143, 143], ranks[0].output + ranks[1].output
    assert time.monotonic() - start < 10
    assert len(steps(tmp_path / "run")) == 1


def test_the_rank_that_failed_first_and_why_is_what_one_reads_last(tmp_path):
    fault = "training.faults:plant:step,5,raise,1"
    ranks = launch_ddp(tmp_path / "run", 2, "trainer.save_every=2", fault=fault)
    assert [rank.wait(30) for rank in ranks] == [1, 1]
    assert "RuntimeError: planted failure" in ranks[1].output
    said = [line for line in ranks[0].output.splitlines() if "rank 1 failed first" in line]
    assert said, ranks[0].output
    assert "after step 4: RuntimeError: planted failure" in said[-1]
    assert steps(tmp_path / "run") == [2, 4]


def test_a_full_disk_on_the_rank_that_saves_stops_all_ranks_with_the_reason(tmp_path):
    fault = "training.faults:plant:save,3,full,0"
    ranks = launch_ddp(tmp_path / "run", 2, "trainer.save_every=2", fault=fault)
    assert [rank.wait(30) for rank in ranks] == [2, 2], ranks[1].output
    assert all("step_4 not written (No space left on device" in rank.output for rank in ranks)
    assert steps(tmp_path / "run") == [2]


def test_an_exception_in_a_callback_leaves_weights_and_averages_as_they_were(straight, tmp_path):
    process = launch_train(tmp_path / "run", *SETTINGS, fault="training.faults:plant:log,9,raise")
    assert process.wait() == 1
    assert "planted failure" in process.output.splitlines()[-3]
    assert launch_train(tmp_path / "run", *SETTINGS, "ckpt=last").wait() == 0
    assert state_of(tmp_path / "run") == state_of(straight)


def test_three_kills_in_a_chain_change_nothing(straight, tmp_path):
    """In the middle of a step, right after the checkpoint at an epoch's end (36 samples), in the middle of a step."""
    for point, newest in (("forward,9", 3), ("checkpoint,-2", 9), ("clip,4", 12)):
        process = launch_train(tmp_path / "run", *SETTINGS, "ckpt=last", fault=f"training.faults:plant:{point},kill")
        assert process.wait() == -9, process.output
        assert max(steps(tmp_path / "run")) == newest
    assert launch_train(tmp_path / "run", *SETTINGS, "ckpt=last").wait() == 0
    assert state_of(tmp_path / "run") == state_of(straight)
    assert [line.split(",")[0] for line in losses_of(tmp_path / "run")] == ["step", "3", "6", "9", "12", "14"]


@pytest.mark.slow
@pytest.mark.parametrize("chain", range(4))
def test_five_kills_at_random_moments_change_nothing(tmp_path, chain):
    draw = random.Random(chain)
    settings = (
        "trainer.max_steps=60",
        "trainer.save_every=9",
        "trainer.log_every=4",
        f"trainer.workers={chain % 2 * 2}",
    )
    assert launch_train(tmp_path / "straight", *settings).wait() == 0
    for _ in range(5):
        process = launch_train(tmp_path / "run", *settings, "ckpt=last", fault="training.faults:slow:0.01")
        process.process.join(draw.uniform(0.8, 1.6))
        process.process.kill()
        assert process.wait() in (-9, 0)
    assert launch_train(tmp_path / "run", *settings, "ckpt=last").wait() == 0
    assert state_of(tmp_path / "run", 60) == state_of(tmp_path / "straight", 60)


@pytest.mark.slow
def test_lightnings_own_launcher_starts_the_other_rank_and_a_signal_ends_both(tmp_path):
    given = tiny_overrides(tmp_path / "run", "trainer=ddp", "trainer.devices=2", "trainer.max_steps=3000")
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([sys.executable, str(ROOT / "train.py"), *given], stdout=log, stderr=log)
        wait_until(lambda: (tmp_path / "run/metrics.csv").exists(), 120)
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 143, (tmp_path / "log").read_text()
    assert len(steps(tmp_path / "run")) == 1
