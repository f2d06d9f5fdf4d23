"""Checkpoints that are written beside the steps: the same files, nothing lost by kills, and no failure unsaid."""

import random
import signal
import threading
import time
from pathlib import Path

import pytest
from training.launch import launch_ddp, launch_train
from training.runs import run_tiny, state_of

from imtok.errors import InputError
from imtok.training import checkpoints
from imtok.training.records import Events
from imtok.training.writer import Writer

SETTINGS = ("trainer.save_every=2", "trainer.keep=9")
BESIDE = (*SETTINGS, "trainer.save_async=true")


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Written between two steps."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    run_tiny(folder, *SETTINGS)
    return folder


def steps(folder):
    return sorted(int(path.name.removeprefix("step_")) for path in (folder / "checkpoints").glob("step_*"))


def newest(root):
    return max(steps(root / "run"), default=0)


def later(monkeypatch, seconds, fails_at=()):
    """Let every checkpoint begin to be written when steps have gone on, and some fail."""
    save = checkpoints.save

    def slowly(checkpoint, folder, keep):
        time.sleep(seconds)
        if checkpoint.step in fails_at:
            raise InputError(f"step_{checkpoint.step} not written")
        return save(checkpoint, folder, keep)

    monkeypatch.setattr(checkpoints, "save", slowly)


def test_what_is_written_while_steps_go_on_is_the_state_of_its_step(straight, tmp_path, monkeypatch):
    later(monkeypatch, 0.05)
    run_tiny(tmp_path / "run", *BESIDE)
    for step in range(2, 15, 2):
        assert state_of(tmp_path / "run", step) == state_of(straight, step), step
    noted = [event for event in Events(tmp_path / "run/events.jsonl").read() if event["event"] == "checkpoint"]
    assert [event["step"] for event in noted] == [*range(2, 15, 2)]
    assert all(event["seconds"] >= 0.05 for event in noted)


@pytest.mark.parametrize("beside", ["true", "false"])
def test_a_checkpoint_that_cannot_be_written_ends_the_run(tmp_path, monkeypatch, beside):
    later(monkeypatch, 0, fails_at=[4])
    with pytest.raises(InputError, match="step_4 not written"):
        run_tiny(tmp_path / "run", *SETTINGS, f"trainer.save_async={beside}")
    assert steps(tmp_path / "run") == [2]
    assert "step_4 not written" in (tmp_path / "run/events.jsonl").read_text()


def test_a_full_disk_ends_all_ranks_with_the_reason(tmp_path):
    ranks = launch_ddp(tmp_path / "run", 2, *BESIDE, fault="training.faults:plant:save,3,full,0")
    assert [rank.wait(60) for rank in ranks] == [2, 2], ranks[1].output
    assert all("step_4 not written (No space left on device" in rank.output for rank in ranks)
    assert steps(tmp_path / "run") == [2]


def test_a_run_that_is_asked_to_stop_waits_for_its_checkpoint(straight, tmp_path):
    process = launch_train(tmp_path / "run", *BESIDE, fault="training.faults:plant:save,3,term")
    assert process.wait() == 143, process.output
    found = steps(tmp_path / "run")
    assert found[:2] == [2, 4]
    assert launch_train(tmp_path / "run", *BESIDE, "ckpt=last").wait() == 0
    assert state_of(tmp_path / "run") == state_of(straight)


def test_kills_while_checkpoints_are_written_lose_nothing(straight, tmp_path):
    for point, whole in (("save,3", 2), ("manifest,2", 4), ("retire,2", 8)):
        process = launch_train(tmp_path / "run", *BESIDE, "ckpt=last", fault=f"training.faults:plant:{point},kill")
        assert process.wait() == -signal.SIGKILL, process.output
        assert newest(tmp_path) >= whole
        assert checkpoints.find(tmp_path / "run/checkpoints") == tmp_path / f"run/checkpoints/step_{newest(tmp_path)}"
    assert launch_train(tmp_path / "run", *BESIDE, "ckpt=last").wait() == 0
    assert state_of(tmp_path / "run") == state_of(straight)
    assert not list((tmp_path / "run/checkpoints").glob(".*"))


@pytest.mark.slow
def test_twenty_kills_at_random_moments_of_writing_lose_nothing(tmp_path):
    """Each comes at another one of the calls that write: the weights, the manifest, flushes, and deleting."""
    draw = random.Random(0)
    given = ("trainer.max_steps=160", "trainer.save_async=true", "trainer.save_every=1", "trainer.keep=2")
    assert launch_train(tmp_path / "straight", *given).wait(120) == 0
    floor = 0
    for _ in range(20):
        point = draw.choice(["save", "manifest", "flush", "retire"])
        call = draw.choice([1, -1]) * draw.randint(1, 8)
        process = launch_train(
            tmp_path / "run", *given, "ckpt=last", fault=f"training.faults:plant:{point},{call},kill"
        )
        assert process.wait(120) == -signal.SIGKILL, process.output
        events = Events(tmp_path / "run/events.jsonl").read()
        noted = [event["step"] for event in events if event["event"] == "checkpoint"]
        reached, floor = floor, newest(tmp_path)
        assert floor >= max([reached, *noted])
        found = checkpoints.find(tmp_path / "run/checkpoints")
        assert found is None if floor == 0 else found == tmp_path / f"run/checkpoints/step_{floor}"
    assert launch_train(tmp_path / "run", *given, "ckpt=last").wait(120) == 0
    assert state_of(tmp_path / "run", 160) == state_of(tmp_path / "straight", 160)


def test_one_thing_is_done_at_a_time_beside_its_caller():
    writer, seen, gate = Writer(beside=True), [], threading.Event()
    writer.start(lambda: (gate.wait(10), seen.append(1)))
    assert writer.is_at_work
    assert seen == []
    threading.Timer(0.05, gate.set).start()
    writer.start(lambda: seen.append(2))  # waits
    assert writer.end() is None
    assert seen == [1, 2]
    assert not writer.is_at_work


@pytest.mark.parametrize("beside", [True, False])
def test_an_error_comes_up_once_where_somebody_waits(beside):
    writer = Writer(beside)
    writer.start(lambda: Path("/nowhere").stat())
    error = writer.end()
    assert isinstance(error, FileNotFoundError)
    assert not writer.has_failed
    assert writer.end() is None
