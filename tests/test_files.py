"""Files and folders appear whole or not at all."""

import fcntl
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from imtok import files
from imtok.errors import InputError
from imtok.files import Lock, claim_inside, claim_output, new_folder, read_json, write_bytes, write_json


def test_a_file_is_replaced_whole(tmp_path):
    write_bytes(tmp_path / "a", b"one")
    write_bytes(tmp_path / "a", b"two")
    assert (tmp_path / "a").read_bytes() == b"two"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_numbers_that_json_cannot_hold_leave_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert read_json(tmp_path / "a.json") == {"x": 1}


def test_a_folder_appears_only_when_its_block_ends(tmp_path):
    with new_folder(tmp_path / "out") as aside:
        (aside / "a").write_text("x")
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "out/a").read_text() == "x"


def test_every_file_is_flushed_before_the_folder_has_its_name(tmp_path, monkeypatch):
    flushed, flush = [], files.flush

    def noted(path):
        flushed.append((path.name, (tmp_path / "out").exists()))
        flush(path)

    monkeypatch.setattr(files, "flush", noted)
    with new_folder(tmp_path / "out") as aside:
        (aside / "below").mkdir()
        for number in range(1500):
            (aside / "below" / f"{number}").write_text("x")
    below = sorted(name for name, there in flushed if not there)
    assert below == sorted(["below", *map(str, range(1500))])
    assert flushed[-1] == (tmp_path.name, True)


def test_a_file_that_does_not_reach_the_disk_leaves_no_folder(tmp_path, monkeypatch):
    def full(path):
        if path.name == "7":
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "flush", full)

    def fill():
        with new_folder(tmp_path / "out") as aside:
            for number in range(20):
                (aside / f"{number}").write_text("x")

    with pytest.raises(OSError, match="No space"):
        fill()
    assert not list(tmp_path.iterdir())


def test_an_error_leaves_the_earlier_folder_and_nothing_else(tmp_path):
    with new_folder(tmp_path / "out") as aside:
        (aside / "a").write_text("old")

    def fail_midway():
        with new_folder(tmp_path / "out") as aside:
            (aside / "a").write_text("new")
            raise RuntimeError("midway")

    with pytest.raises(RuntimeError, match="midway"):
        fail_midway()
    assert (tmp_path / "out/a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_leftovers_of_a_killed_process_are_removed(tmp_path):
    script = (
        "import os, sys; from pathlib import Path; from imtok.files import new_folder\n"
        "with new_folder(Path(sys.argv[1])) as aside:\n"
        "    (aside / 'a').write_text('half'); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path / "out")], check=False).returncode == -9
    assert len(list(tmp_path.iterdir())) == 1
    assert not (tmp_path / "out").exists()
    with new_folder(tmp_path / "out") as aside:
        (aside / "a").write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_folder_of_a_running_process_is_left_alone(tmp_path):
    aside = tmp_path / f".out.{os.getppid()}.tmp"
    aside.mkdir()
    with new_folder(tmp_path / "out"):
        pass
    assert aside.exists()


def test_a_foreign_output_folder_is_refused(tmp_path):
    claim_output(tmp_path / "new", "marker")
    claim_output(tmp_path, "marker")
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="already holds something else"):
        claim_output(tmp_path, "marker")
    with pytest.raises(InputError, match="is a file"):
        claim_output(tmp_path / "thesis.txt", "marker")
    (tmp_path / "marker").write_text("")
    claim_output(tmp_path, "marker")


@pytest.mark.parametrize("claim", [claim_output, claim_inside])
def test_a_folder_that_cannot_be_made_is_one_line_at_the_start(tmp_path, claim):
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe")
    refused = {
        "/proc/x": "cannot be written to",
        "/proc/x/y": "cannot be written to",
        "/proc/self": "holds something else",
        tmp_path / "file": "is a file",
        tmp_path / "file/below": "Not a directory",
        tmp_path / "pipe": "is a file",
        tmp_path / "dangling": "is a link to .*/nowhere, which is not there",
        tmp_path / "dangling/below": "is a link to .*/nowhere, which is not there",
        tmp_path / "loop": "is a link to .*/loop, which is not there",
        tmp_path / ("n" * 300): "File name too long",
        "a\0b": "null byte",
    }
    for path, reason in refused.items():
        with pytest.raises(InputError, match=reason) as caught:
            claim(type(tmp_path)(path), "marker")
        assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling", "file", "loop", "pipe"]


def test_a_mount_point_cannot_be_replaced_but_written_into(tmp_path, monkeypatch):
    monkeypatch.setattr(os.path, "ismount", lambda path: path == tmp_path)
    claim_inside(tmp_path, "marker")
    with pytest.raises(InputError, match="is a mount point"):
        claim_output(tmp_path, "marker")


def test_what_a_killed_process_left_is_nothing_foreign(tmp_path):
    for name in (".lock", ".config.yaml.123.tmp"):
        (tmp_path / name).write_text("")
    claim_output(tmp_path, "marker")


def test_a_link_to_a_folder_is_written_through(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    claim_output(tmp_path / "link", "a")
    for text in ("one", "two"):
        with new_folder(tmp_path / "link") as aside:
            (aside / "a").write_text(text)
        claim_output(tmp_path / "link", "a")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real/a").read_text() == "two"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]


@pytest.mark.parametrize("mask", [0o022, 0o027])
def test_files_of_a_folder_have_the_mode_of_the_umask_whoever_wrote_them(tmp_path, mask):
    before = os.umask(mask)
    try:
        with new_folder(tmp_path / "out") as aside:
            (aside / "below").mkdir()
            save_file({"a": torch.zeros(1)}, aside / "below/a.safetensors")  # 0600 by itself
            (aside / "program").write_text("")
            (aside / "program").chmod(0o700)
            (aside / "link").symlink_to("program")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*") if not path.is_symlink()}
    shared = 0o666 & ~mask
    assert modes == {"out": 0o777 & ~mask, "below": 0o777 & ~mask, "a.safetensors": shared, "program": 0o700 | shared}


def test_a_lock_is_held_by_one_and_names_it(tmp_path):
    first, second = (Lock(tmp_path / ".lock", "out=here") for _ in range(2))
    first.take()
    first.take()
    with pytest.raises(InputError, match=rf"out=here is in use by process {os.getpid()} on \S+ since \d{{4}}-"):
        second.take()
    second.release()
    with pytest.raises(InputError, match="is in use"):
        second.take()
    first.release()
    assert not list(tmp_path.iterdir())
    second.take()
    second.release()


def test_a_lock_ends_with_its_process_and_not_with_those_that_were_forked_from_it(tmp_path):
    ready, hold = os.pipe(), os.pipe()
    lock = Lock(tmp_path / ".lock", "out=here")
    lock.take()
    child = os.fork()
    if child == 0:
        os.write(ready[1], b"x")
        os.read(hold[0], 1)  # outlives the lock
        os._exit(0)
    os.read(ready[0], 1)
    os.close(lock._descriptor)  # as the kernel does when the process is killed: the file stays
    files._HELD.clear()
    Lock(tmp_path / ".lock", "out=here").take()
    os.write(hold[1], b"x")
    os.waitpid(child, 0)


def test_where_there_are_no_locks_it_is_said_and_the_work_goes_on(tmp_path, monkeypatch, caplog):
    def none(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", none)
    lock = Lock(tmp_path / ".lock", "out=here")
    lock.take()
    assert "out=here cannot be locked (Function not implemented): nothing keeps a second process from it" in caplog.text
    lock.release()
