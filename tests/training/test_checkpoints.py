"""A checkpoint is whole or it does not exist: damage is found, the one before is used, the last good one stays."""

import io
import json
import logging
import os
import pickle
import random
import resource
import shutil
import struct
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from training.faults import plant
from training.launch import Launched

from imtok.errors import InputError
from imtok.files import sealed, sha256, stamp
from imtok.training import checkpoints
from imtok.training.checkpoints import Checkpoint, clean, damage, find, load, save
from imtok.training.folder import claim, find_checkpoint, held

FILES = ("model.safetensors", "ema.safetensors", "trainer.pt", "manifest.json")


def checkpoint(step: int, value: float = 1.0, size: int = 64) -> Checkpoint:
    state = {"optimizers": [{"state": {"w": torch.ones(4)}}], "skipped": [0, 0], "ema_updates": step, "meters": []}
    return Checkpoint(step, {"w": torch.full((size,), value)}, {"w": torch.full((size,), value)}, state, {"config": {}})


@pytest.fixture
def folder(tmp_path):
    """Two good checkpoints."""
    for step in (5, 10):
        save(checkpoint(step), tmp_path / "checkpoints", keep=2)
    return tmp_path / "checkpoints"


def forge(path, name, data):
    """Replace a file and make the manifest agree, as someone with bad intentions would."""
    (path / name).write_bytes(data)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": len(data), "sha256": sha256(path / name)}
    del manifest["sha256"]
    (path / "manifest.json").write_text(json.dumps(sealed(manifest)))


def test_what_was_saved_is_what_is_loaded(folder):
    loaded = load(folder / "step_10")
    assert loaded.step == 10
    torch.testing.assert_close(loaded.model["w"], torch.ones(64), rtol=0, atol=0)
    assert loaded.about == {"config": {}}
    torch.testing.assert_close(loaded.state["optimizers"][0]["state"]["w"], torch.ones(4))


def test_its_bytes_are_read_once_to_verify_them(folder, monkeypatch):
    stamped: list[Path] = []

    def noted(path):
        stamped.append(path)
        return stamp(path)

    monkeypatch.setattr(checkpoints, "stamp", noted)
    found = find_checkpoint(folder.parent, "last")
    assert found is not None
    assert sorted(path.name for path in stamped) == sorted(FILES[:3])
    found.forget()
    assert (found.model, found.ema, found.state) == ({}, {}, {})


@pytest.mark.parametrize("name", FILES)
def test_a_cut_empty_or_foreign_file_is_found(folder, name, caplog):
    data = (folder / "step_10" / name).read_bytes()
    for part in [*(data[: len(data) * tenth // 10] for tenth in range(10)), b"<html>404</html>", data + b"\0"]:
        (folder / "step_10" / name).write_bytes(part)
        caplog.clear()
        assert find(folder) == folder / "step_5"
        assert str(folder / "step_10") in caplog.text
        assert f"going back to {folder / 'step_5'}" in caplog.text
        with pytest.raises(InputError, match=r"step_10 is not a whole checkpoint"):
            find_checkpoint(folder.parent, str(folder / "step_10"))
    (folder / "step_10" / name).unlink()
    assert find(folder) == folder / "step_5"
    (folder / "step_10" / name).write_bytes(data)
    assert find(folder) == folder / "step_10"


def test_every_one_of_300_flipped_bits_is_found(folder):
    random.seed(0)
    path = folder / "step_10"
    content = {name: (path / name).read_bytes() for name in FILES[:3]}
    found = 0
    for _ in range(300):
        name = random.choices(FILES[:3], [len(content[each]) for each in FILES[:3]])[0]
        data = bytearray(content[name])
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
        (path / name).write_bytes(data)
        found += damage(path) is not None
        (path / name).write_bytes(content[name])
    assert found == 300
    assert damage(path) is None


def test_every_flipped_bit_of_the_manifest_is_found(folder):
    """It holds the config too: with another one the run would be refused instead of going back a checkpoint."""
    path = folder / "step_10/manifest.json"
    content = path.read_bytes()
    said = json.loads(content)
    for position in range(8 * len(content)):
        data = bytearray(content)
        data[position // 8] ^= 1 << position % 8
        path.write_bytes(data)
        try:
            same = json.loads(data) == said  # white space, or e for E
        except ValueError:
            same = False
        assert same or damage(path.parent) is not None, position


def test_without_any_whole_checkpoint_the_run_does_not_silently_start_anew(folder):
    for step in (5, 10):
        (folder / f"step_{step}/trainer.pt").write_bytes(b"")
    with pytest.raises(InputError, match="holds no whole checkpoint"):
        find_checkpoint(folder.parent, "last")


def test_only_the_newest_stay(folder):
    save(checkpoint(15), folder, keep=2)
    assert sorted(path.name for path in folder.iterdir()) == ["step_10", "step_15"]


def test_a_damaged_newer_checkpoint_does_not_cost_the_good_one(folder):
    (folder / "step_10/trainer.pt").write_bytes(b"")
    save(checkpoint(7), folder, keep=1)  # the run has gone on from step 5
    assert find(folder) == folder / "step_7"
    assert [path.name for path in folder.iterdir()] == ["step_7"]


def test_a_failed_delete_does_not_stop_the_run(folder, monkeypatch, caplog):
    remove = shutil.rmtree

    def refuse(path, ignore_errors=False):
        if not ignore_errors:
            raise OSError(16, "Device or resource busy")
        remove(path, ignore_errors=True)

    monkeypatch.setattr(shutil, "rmtree", refuse)
    save(checkpoint(15), folder, keep=1)
    assert "could not be deleted" in caplog.text
    assert find(folder) == folder / "step_15"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_never_replace_a_good_checkpoint(folder, value):
    with pytest.raises(InputError, match=r"step 15 not written: w holds NaN or infinity"):
        save(checkpoint(15, value), folder, keep=1)
    assert sorted(path.name for path in folder.iterdir()) == ["step_10", "step_5"]
    assert find(folder) == folder / "step_10"


@pytest.mark.parametrize("writer", ["save_file", "write_state", "write_json"])
def test_a_full_disk_leaves_the_earlier_checkpoints_and_says_how_much_is_needed(folder, monkeypatch, writer):
    def full(_value, path, *_args):
        (path if writer == "save_file" else _value).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, writer, full)
        with pytest.raises(InputError, match=r"step_15 not written \(No space left.*MB needed.*MB were free"):
            save(checkpoint(15), folder, keep=1)
    assert sorted(path.name for path in folder.iterdir()) == ["step_10", "step_5"]
    save(checkpoint(15), folder, keep=2)
    assert find(folder) == folder / "step_15"


def save_without_room(folder: str, large: str) -> None:
    """For a process of its own: the system lets no file grow beyond 8 kB."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))
    given = checkpoint(15, size=100_000 if large == "model" else 64)
    if large == "state":
        given.state["meters"] = [torch.ones(100_000)]
    with pytest.raises(InputError, match=r"step_15 not written \(.*File too large"):
        save(given, Path(folder), keep=1)


@pytest.mark.parametrize("large", ["model", "state"])
def test_a_disk_that_really_refuses_more_bytes_is_understood(folder, tmp_path, large):
    process = Launched("training.test_checkpoints:save_without_room", [str(folder), large], tmp_path / "log")
    assert process.wait() == 0, process.output
    assert sorted(path.name for path in folder.iterdir()) == ["step_10", "step_5"]
    assert find(folder) == folder / "step_10"


def test_too_little_room_is_said_before_anything_is_written(folder, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(100, 100, 0))  # type: ignore
    with pytest.raises(InputError, match=r"needs 0\.0 MB and 0\.0 MB are free"):
        save(checkpoint(15), folder, keep=1)
    assert sorted(path.name for path in folder.iterdir()) == ["step_10", "step_5"]


def test_a_place_that_cannot_be_written_to_is_refused_in_one_line():
    folder = Path("/proc/imtok_run")
    with pytest.raises(InputError, match=r"out=/proc/imtok_run cannot be written to"), held(folder) as lock:
        claim(folder, None, lock)


def write_and_die(folder: str, point: str) -> None:
    """For a process of its own: it is killed while it saves."""
    plant(point)
    for step in (5, 10, 15):
        save(checkpoint(step, size=10_000), Path(folder), keep=2)


# Calls in each save: save_file twice, write_json once, flush once per file and once for the folder, retire once.
POINTS = ["save,5,kill", "save,6,kill", "manifest,3,kill", "flush,11,kill", "flush,12,kill", "retire,3,kill"]


@pytest.mark.parametrize("point", [*POINTS, "retire,2,kill", "flush,-15,kill"])
def test_killed_while_saving_the_last_or_the_new_checkpoint_is_whole(tmp_path, point):
    folder = tmp_path / "checkpoints"
    process = Launched("training.test_checkpoints:write_and_die", [str(folder), point], tmp_path / "log")
    assert process.wait() == -9, process.output
    found = find(folder)
    assert found is not None
    assert found.name in ("step_5", "step_10", "step_15")
    load(found)
    clean(folder)
    assert not list(folder.glob(".*"))
    save(checkpoint(15), folder, keep=1)
    assert [path.name for path in folder.iterdir()] == ["step_15"]


@pytest.mark.slow
@pytest.mark.parametrize("temporary", [None, "/dev/shm"])
def test_twenty_kills_at_random_moments_of_saving_lose_nothing(tmp_path, temporary):
    random.seed(0)
    folder, floor = tmp_path / "checkpoints", 0
    for _ in range(20):
        environment = {"TMPDIR": temporary} if temporary else {}
        arguments = [str(folder), floor]
        process = Launched("training.test_checkpoints:write_for_ever", arguments, tmp_path / "log", environment)
        process.process.join(random.uniform(0.3, 1.2))
        process.signal(9)
        assert process.wait() == -9, process.output
        found = find(folder)
        announced = [int(line) for line in process.output.split()]
        if found is not None:
            floor = max(floor, load(found).step)
        assert floor >= max(announced, default=0)
        clean(folder)
        assert not list(folder.glob(".*"))
    assert floor > 20


def write_for_ever(folder: str, step: int) -> None:
    while True:
        step += 1
        save(checkpoint(step, size=1_000_000), Path(folder), keep=2)
        sys.stdout.write(f"{step}\n")
        sys.stdout.flush()


def test_what_a_process_of_the_same_number_left_is_removed(folder):
    """In a container the process after a kill often has the killed one's number."""
    (folder / f".step_15.{os.getpid()}.tmp").mkdir()
    (folder / f".step_15.{os.getpid()}.tmp/model.safetensors").write_bytes(b"half")
    save(checkpoint(15), folder, keep=1)
    assert find(folder) == folder / "step_15"


class Gadget:
    """Unpickled without care it creates a file."""

    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self):
        return (open, (self.marker, "w"))


@pytest.mark.filterwarnings("ignore:Environment variable TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")  # it must not hide the rest
@pytest.mark.parametrize("where", ["state", "optimizer", "bare pickle"])
def test_a_pickle_that_would_run_code_is_refused_whatever_the_environment_says(folder, tmp_path, where, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    marker, state = tmp_path / "marker", checkpoint(10).state
    gadget = Gadget(str(marker))
    content = io.BytesIO()
    if where == "bare pickle":
        pickle.dump(gadget, content)
    else:
        torch.save({**state, "optimizers": [gadget]} if where == "optimizer" else gadget, content)
    forge(folder / "step_10", "trainer.pt", content.getvalue())
    assert damage(folder / "step_10") is None
    with pytest.raises(InputError, match="step_10 is not a checkpoint of imtok"):
        load(folder / "step_10")
    assert not marker.exists()


def test_a_compressed_state_is_refused_before_it_swells(folder):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(10_000_000))
    forge(folder / "step_10", "trainer.pt", content.getvalue())
    with pytest.raises(InputError, match="compressed"):
        load(folder / "step_10")


def header(text: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text


@pytest.mark.parametrize(
    "data",
    [
        header(b"{}", 2**40),
        header(b"{" + b" " * 50),
        header(
            b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"v":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}'
        )
        + bytes(12),
        header(b'{"w":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,8]}}') + bytes(8),
        header(b'{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,8]}}') + bytes(8),
        b"",
        b"<html>404</html>",
    ],
    ids=["huge header", "no JSON", "overlap", "huge shape", "type and size disagree", "empty", "HTML"],
)
def test_a_hostile_safetensors_file_is_refused(folder, data):
    forge(folder / "step_10", "model.safetensors", data)
    with pytest.raises(InputError, match="step_10 is not a checkpoint of imtok"):
        load(folder / "step_10")


@pytest.mark.parametrize(
    "manifest",
    [
        [],
        {"format": 1},
        {"format": 3},
        sealed({"format": 3, "files": {}}),
        sealed({"format": 3, "files": {"../../secret": {"bytes": 1, "sha256": ""}}}),
        sealed({"format": 3, "files": None}),
    ],
)
def test_a_manifest_that_is_none_is_refused(folder, manifest):
    (folder / "step_10/manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="not a whole checkpoint"):
        load(folder / "step_10")


def test_foreign_folders_beside_checkpoints_are_left_alone(folder, caplog):
    caplog.set_level(logging.WARNING)
    (folder / "step_latest").mkdir()
    (folder / "notes").mkdir()
    assert find(folder) == folder / "step_10"
    save(checkpoint(15), folder, keep=1)
    assert {path.name for path in folder.iterdir()} == {"step_15", "step_latest", "notes"}
    assert not caplog.text
