"""Whatever stops an export, and however many processes share it, the store has the same bytes in the end."""

import errno
import json
import os
import signal
import sys
import traceback
from functools import partial

import numpy as np
import pytest
import torch
from export.stores import content, folder_feed, tokenizer_of
from training.runs import write_images

from imtok import shard_folder
from imtok.errors import InputError
from imtok.export import building
from imtok.export.store import TokenStore
from imtok.export.tokens import export_tokens
from imtok.export.views import Views


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"), 11)


@pytest.fixture(scope="module")
def whole(images, tmp_path_factory):
    """The store of an export that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole") / "tokens"
    export(images, folder)
    return content(folder)


def export(images, folder, **settings):
    return export_tokens(tokenizer_of("one slot"), folder_feed(images, **settings), folder)


def in_child(action):
    """Run in a process of its own; returns the status with which it ended."""
    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)
            action()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return child


def wait_for(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at(images, folder, call):
    """Export, and be killed by signal 9 at the so many-th call that opens, renames or removes a file."""
    seen = 0

    def count(event, arguments):
        nonlocal seen
        if event in ("open", "os.rename", "os.remove", "os.mkdir") and str(folder.parent) in str(arguments[0]):
            seen += 1
            if seen == call:
                os.kill(os.getpid(), signal.SIGKILL)

    def action():
        sys.addaudithook(count)
        export(images, folder)

    return wait_for(in_child(action))


def test_an_export_killed_at_ten_points_goes_on_to_the_same_bytes(images, whole, tmp_path):
    calls, kept = [], 0
    for call in np.random.default_rng(5).permutation(np.arange(2, 62))[:10].tolist():
        folder = tmp_path / f"{call}" / "tokens"
        folder.parent.mkdir()
        if killed_at(images, folder, call) == -signal.SIGKILL:
            calls.append(call)
        rest = folder.with_name("tokens.partial")
        shards = sorted(rest.glob("shard-*.json"))
        arrays = [rest / f"{name}-{path.stem[-5:]}.npy" for path in shards for name in ("ids", "labels")]
        before = {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in [*shards, *arrays]}
        export(images, folder)
        after = {name: ((folder / name).stat().st_ino, (folder / name).stat().st_mtime_ns) for name in before}
        assert after == before
        assert content(folder) == whole
        assert [path.name for path in folder.parent.iterdir()] == ["tokens"]
        kept += len(shards)
    assert len(calls) >= 8
    assert kept >= 6


def test_a_shard_that_was_damaged_in_between_is_made_again(images, whole, tmp_path):
    folder = tmp_path / "tokens"
    assert killed_at(images, folder, 30) == -signal.SIGKILL
    path = folder.with_name("tokens.partial") / "ids-00000.npy"
    assert path.with_name("shard-00000.json").is_file()
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    export(images, folder)
    assert content(folder) == whole


def test_two_processes_export_exactly_what_one_does(images, whole, tmp_path):
    for name in "abc":
        children = [in_child(partial(export, images, tmp_path / name)) for _ in range(2)]
        assert [wait_for(child) for child in children] == [0, 0]
        assert content(tmp_path / name) == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]


def test_what_a_killed_process_had_taken_is_done_by_the_other(images, whole, tmp_path):
    folder = tmp_path / "tokens"
    slow = in_child(lambda: killed_slowly(images, folder))
    other = in_child(lambda: export(images, folder))
    assert wait_for(slow) == -signal.SIGKILL
    assert wait_for(other) == 0
    assert content(folder) == whole


def killed_slowly(images, folder):
    write = building.Building.write

    def one_only(self, number, arrays, about):
        write(self, number, arrays, about)
        os.kill(os.getpid(), signal.SIGKILL)

    building.Building.write = one_only
    export(images, folder)


def test_a_store_that_an_earlier_version_began_is_taken_up_where_it_stopped(images, whole, tmp_path):
    rest = tmp_path / "tokens.partial"
    rest.mkdir()
    (rest / ".lock").touch()
    for name in ("ids-00001.npy", "labels-00001.npy", "ids-00002.npy"):  # the third shard has no record yet
        (rest / name).write_bytes(whole[name])
    for name in ("plan.json", "shard-00001.json"):
        (rest / name).write_text(json.dumps(json.loads(whole[name])) + "\n")
    (rest / ".labels-00002.npy.4711.tmp").write_bytes(b"half")
    inode = (rest / "ids-00001.npy").stat().st_ino
    export(images, tmp_path / "tokens")
    assert (tmp_path / "tokens/ids-00001.npy").stat().st_ino == inode
    assert content(tmp_path / "tokens") == whole


def test_a_finished_store_is_left_as_it_is(images, tmp_path):
    manifest = export(images, tmp_path / "tokens")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "tokens").iterdir()}
    assert export(images, tmp_path / "tokens") == manifest
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "tokens").iterdir()} == before


def test_shards_of_other_settings_are_never_mixed_in(images, tmp_path):
    folder = tmp_path / "tokens"
    assert killed_at(images, folder, 30) == -signal.SIGKILL
    with pytest.raises(InputError, match=r"tokens\.partial holds shards of other settings \(batch_size=2, not 3\)"):
        export(images, folder, batch_size=3)
    assert folder.with_name("tokens.partial").is_dir()


def test_an_export_by_other_settings_replaces_a_finished_one_in_the_end(images, tmp_path):
    export(images, tmp_path / "tokens")
    assert export(images, tmp_path / "tokens", shard_size=4)["shards"] == 3
    TokenStore(tmp_path / "tokens").verify()
    assert [path.name for path in tmp_path.iterdir()] == ["tokens"]


def test_a_folder_in_the_way_is_refused(images, tmp_path):
    (tmp_path / "tokens.partial").mkdir()
    (tmp_path / "tokens.partial/thesis.txt").write_text("mine")
    with pytest.raises(InputError, match=r"tokens\.partial is in the way"):
        export(images, tmp_path / "tokens")


def test_a_full_disk_names_path_and_bytes_and_keeps_what_was_whole(images, whole, tmp_path, monkeypatch):
    write, room = shard_folder.write_bytes, 2

    def full(path, data):
        nonlocal room
        if path.name.startswith("ids-"):
            room -= 1
            if room < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
        write(path, data)

    monkeypatch.setattr(shard_folder, "write_bytes", full)
    refused = r"ids-00002\.npy not written, the disk is full: it needs 152 bytes and \d+ are free; what is whole"
    with pytest.raises(InputError, match=refused):
        export(images, tmp_path / "tokens")
    assert len(list((tmp_path / "tokens.partial").glob("shard-*.json"))) == 2
    monkeypatch.undo()
    export(images, tmp_path / "tokens")
    assert content(tmp_path / "tokens") == whole


def test_too_small_a_disk_is_refused_before_the_first_image(images, tmp_path, monkeypatch):
    class Usage:
        free = 100

    monkeypatch.setattr(building.shutil, "disk_usage", lambda path: Usage)
    with pytest.raises(InputError, match=r"tokens\.partial not written, the disk is full: it needs 1496 bytes and"):
        export(images, tmp_path / "tokens")
    assert not list(tmp_path.iterdir())


def test_unreadable_images_are_listed_in_order_and_left_out_of_their_shards(tmp_path):
    images = write_images(tmp_path / "images", 8)
    for name in ("a/000.png", "b/003.png", "b/005.png", "b/007.png"):
        (images / name).write_bytes(b"no picture")
    manifest = export(images, tmp_path / "tokens", shard_size=2)
    store = TokenStore(tmp_path / "tokens")
    store.verify()
    assert [shard.keys for shard in store.shards()] == [["a/002.png"], ["a/004.png", "a/006.png"], ["b/001.png"], []]
    assert [bad.split(":")[0] for bad in manifest["bad"]] == ["a/000.png", "b/003.png", "b/005.png", "b/007.png"]
    assert manifest["images"] == len(store) == 4


def test_ten_crops_are_encoded_like_images_of_their_own(images, tmp_path):
    tokenizer = tokenizer_of("one slot").double()
    export_tokens(tokenizer, folder_feed(images, augment="ten_crop"), tmp_path / "tokens", Views("ten_crop"))
    store = TokenStore(tmp_path / "tokens")
    assert np.load(tmp_path / "tokens/ids-00000.npy", allow_pickle=False).shape == (3, 10, 4, 1)
    squares = folder_feed(images, augment="ten_crop").set
    for shard, first in zip(store.shards(), range(0, 11, 3), strict=True):
        for row, index in enumerate(range(first, min(first + 3, 11))):
            crops = Views("ten_crop")(squares[0, index].image[None], 16)[0]
            expected = tokenizer.encode(crops.double() / 127.5 - 1).ids
            assert np.array_equal(shard.ids[row], expected.numpy())
