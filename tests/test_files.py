"""Files and folders appear whole or not at all."""

import os
import subprocess
import sys

import pytest

from imtok import files
from imtok.errors import InputError
from imtok.files import claim_output, new_folder, read_json, write_bytes, write_json


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
