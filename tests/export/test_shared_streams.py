"""An export of streamed shards: whoever reads which shard, and however it is stopped, the store is the same."""

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from export.stores import content, tokenizer_of
from PIL import Image

from imtok.data.archives.shard_paths import open_local
from imtok.data.sources.webdataset import WebDataset
from imtok.data.stream import ImageStream
from imtok.export.feed import Feed, ListFeed, StreamFeed, make_feed
from imtok.export.store import TokenStore
from imtok.export.tokens import export_tokens
from imtok.measures.spending import Spender

COUNTS = [4, 0, 7, 1, 3]  # images of each shard


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    for number, count in enumerate(COUNTS):
        with tarfile.open(folder / f"{number}.tar", "w") as archive:
            for at in range(count + 1):
                file = io.BytesIO()
                Image.fromarray(np.full((16, 16, 3), 40 * number + at, np.uint8)).save(file, "PNG")
                data = file.getvalue() if at < count - 1 or count < 7 else b"damaged"
                member = tarfile.TarInfo(f"{at}.png" if at < count else "notes.json")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return folder


def feed_of(shards: Path, opened: list[str] | None = None, workers: int = 0, input_shards: int = 1) -> Feed:
    def opener(url: str):
        if opened is not None:
            opened.append(Path(url).name)
        return open_local(url)

    images = WebDataset(shards, access="stream").evaluation(16)
    assert isinstance(images, ImageStream)
    images.opener = opener
    return make_feed(images, 10, 2, workers, input_shards)


def export(folder: Path, *feed, **settings):
    return export_tokens(tokenizer_of("one slot"), feed_of(*feed, **settings), folder)


@pytest.fixture(scope="module")
def whole(shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "tokens"
    export(folder, shards)
    return folder


def test_the_store_has_the_images_of_random_access_in_the_order_of_the_shards(shards, whole, tmp_path):
    listed = ListFeed(WebDataset(shards).evaluation(16), 4, 2)
    export_tokens(tokenizer_of("one slot"), listed, tmp_path / "listed")
    ours, theirs = TokenStore(whole), TokenStore(tmp_path / "listed")
    ours.verify()
    assert [len(shard.keys) for shard in ours.shards()] == [4, 0, 6, 1, 3]
    for name in ("ids", "keys", "labels"):
        full = [[getattr(shard, name) for shard in store.shards() if len(shard.keys)] for store in (ours, theirs)]
        assert np.array_equal(*map(np.concatenate, full))
    assert ours.manifest["bad"] == theirs.manifest["bad"]
    assert ours.manifest["input_shards"] == 1
    assert "shard_size" not in ours.manifest


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_change_no_byte(shards, whole, tmp_path, workers):
    export(tmp_path / "tokens", shards, workers=workers)
    assert content(tmp_path / "tokens") == content(whole)


def test_several_shards_may_make_one(shards, whole, tmp_path):
    export(tmp_path / "tokens", shards, input_shards=2)
    store = TokenStore(tmp_path / "tokens")
    assert [len(shard.keys) for shard in store.shards()] == [4, 7, 3]
    keys = [[key for shard in one.shards() for key in shard.keys] for one in (store, TokenStore(whole))]
    assert keys[0] == keys[1]


def test_only_shards_that_are_wanted_are_opened_each_once(shards):
    opened: list[str] = []
    feed = feed_of(shards, opened, input_shards=2)
    numbers = [(number, batch is None) for number, batch in feed.batches(lambda number: number == 1)]
    assert numbers == [(1, False)] * 4 + [(1, True)]
    assert set(opened) == {"2.tar", "3.tar"}
    assert len(opened) == 2


def test_an_export_goes_on_at_the_shards_that_are_not_whole(shards, whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr("imtok.measures.spending.Spender.encode", _failing(4))
        with pytest.raises(KeyboardInterrupt):
            export(tmp_path / "tokens", shards)
    there = {path.name for path in (tmp_path / "tokens.partial").glob("shard-*.json")}
    assert there == {"shard-00000.json", "shard-00001.json"}
    opened: list[str] = []
    export(tmp_path / "tokens", shards, opened)
    assert opened == ["2.tar", "3.tar", "4.tar"]
    assert content(tmp_path / "tokens") == content(whole)


def test_processes_share_the_shards_and_none_is_read_twice(shards, whole, tmp_path):
    children = []
    for number in range(2):
        child = os.fork()
        if child == 0:
            torch.set_num_threads(1)
            opened: list[str] = []
            export(tmp_path / "tokens", shards, opened)
            (tmp_path / f"opened-{number}").write_text("\n".join(opened))
            os._exit(0)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
    opened = "\n".join((tmp_path / f"opened-{number}").read_text() for number in range(2)).split()
    assert sorted(opened) == [f"{number}.tar" for number in range(5)]
    assert content(tmp_path / "tokens") == content(whole)


@pytest.mark.parametrize(("setting", "value"), [("input_shards", 0), ("batch_size", 0)])
def test_settings_out_of_range_are_refused(shards, setting, value):
    images = WebDataset(shards, access="stream").evaluation(16)
    assert isinstance(images, ImageStream)
    with pytest.raises(ValueError, match=f"{setting} must be at least 1, got 0"):
        StreamFeed(images, **{setting: value})


def _failing(call: int):
    """What encodes a batch, but for one call, at which the process is stopped."""
    encode, calls = Spender.encode, iter(range(99))

    def encoded(*arguments, **settings):
        if next(calls) == call:
            raise KeyboardInterrupt
        return encode(*arguments, **settings)

    return encoded
