"""One process at a time trains in a folder, and one that was killed is not in the way of the next."""

import os

import pytest
from training.launch import launch_train, wait_until
from training.runs import run_tiny, state_of

from imtok.errors import InputError
from imtok.files import Lock


@pytest.mark.parametrize("more", [(), ("ckpt=last",)])
def test_a_second_process_is_refused_and_changes_nothing(tmp_path, more):
    (tmp_path / "run").mkdir()
    if more:
        (tmp_path / "run/config.yaml").write_text("")
    lock = Lock(tmp_path / "run/.lock", "out=run")
    lock.take()
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with pytest.raises(InputError, match=rf"run is in use by process {os.getpid()} on "):
        run_tiny(tmp_path / "run", *more)
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
    lock.release()


def test_the_lock_is_gone_when_a_run_has_ended_however_it_has(tmp_path):
    run_tiny(tmp_path / "run", "trainer.max_steps=2")
    with pytest.raises(InputError, match="already holds a run"):
        run_tiny(tmp_path / "run")
    assert not (tmp_path / "run/.lock").exists()


def test_a_lock_of_something_else_in_its_own_folder_is_not_touched(tmp_path):
    """As uv keeps one in a virtual environment."""
    (tmp_path / ".lock").write_text("not ours")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"already holds something else \(no config.yaml in it\)"):
        run_tiny(tmp_path)
    assert (tmp_path / ".lock").read_text() == "not ours"


@pytest.mark.slow
def test_a_killed_run_with_workers_goes_on_at_once(tmp_path):
    given = ("trainer.workers=2", "trainer.save_every=2")
    assert launch_train(tmp_path / "straight", *given).wait() == 0
    process = launch_train(tmp_path / "run", *given, fault="training.faults:plant:forward,9,kill")
    assert process.wait() == -9, process.output
    assert (tmp_path / "run/.lock").exists()
    process = launch_train(tmp_path / "run", *given, "ckpt=last")
    assert process.wait() == 0, process.output
    assert state_of(tmp_path / "run") == state_of(tmp_path / "straight")


@pytest.mark.slow
def test_of_two_processes_at_once_one_trains(tmp_path):
    slow = launch_train(tmp_path / "run", "trainer.max_steps=400", fault="training.faults:slow:0.02")
    wait_until(lambda: (tmp_path / "run/metrics.csv").exists())
    other = launch_train(tmp_path / "run", "trainer.max_steps=400", "ckpt=last")
    assert other.wait() == 2
    assert f"is in use by process {slow.pid} on " in other.output
    slow.signal(15)
    assert slow.wait() == 143
