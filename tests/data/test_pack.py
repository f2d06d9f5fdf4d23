"""Packing: the same bytes every time, whatever happens in between, and nothing that was known of an image is lost."""

import contextlib
import errno
import hashlib
import json
import os
import random
import subprocess
import sys
import tarfile
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from imtok.data.archives import pack as module
from imtok.data.archives.pack import BAD, INDEX, MANIFEST, PROGRESS, ShardLayout, pack
from imtok.data.archives.packing import Encoding
from imtok.data.archives.sample_names import sample_names
from imtok.data.archives.shards import ShardSource
from imtok.data.images import ImageSet, Source
from imtok.data.reading.decode import decode_image
from imtok.data.sources.folder import FileSource, Folder
from imtok.data.sources.webdataset import WebDataset
from imtok.errors import InputError
from imtok.files import Lock

ROOT = Path(__file__).parents[2]
Picture = Callable[[int], bytes]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.tar"))


def stories(folder: Path) -> list[dict]:
    """The JSON of every sample, by a reader of its own."""
    found = []
    for shard in shards(folder):
        with tarfile.open(shard) as archive:
            found += [json.load(archive.extractfile(m)) for m in archive if m.name.endswith(".json")]
    return found


def test_every_image_its_class_and_its_caption_are_read_back(folder: Path, tmp_path: Path):
    (folder / "a" / "00.txt").write_text("a größe\nof things")
    source = FileSource(folder)
    manifest = pack(source, tmp_path / "out", ShardLayout(shard_images=10))
    packed = ShardSource(shards(tmp_path / "out"))
    assert manifest["images"] == len(packed) == len(source) == 23
    assert packed.classes == source.classes == ["a", "b", "c"]
    place = {source.stem(at): at for at in range(len(source))}
    for at in range(len(packed)):
        origin = place[packed.stem(at)]
        assert packed.read(at) == source.read(origin)
        assert packed.label(at) == source.label(origin)
        assert packed.caption(at) == source.caption(origin)
    assert packed.caption([packed.stem(at) for at in range(23)].index("a/00")) == "a größe\nof things"
    assert sorted(story["key"] for story in stories(tmp_path / "out")) == sorted(map(source.key, range(23)))
    assert {story["class"] for story in stories(tmp_path / "out")} == {"a", "b", "c"}
    assert manifest["captions"] == 1


def test_a_pack_is_trained_on_by_its_index(folder: Path, tmp_path: Path):
    pack(FileSource(folder), tmp_path / "out", ShardLayout(shard_images=10))
    images = WebDataset(tmp_path / "out", index=tmp_path / "out" / INDEX).evaluation(8)
    assert isinstance(images, ImageSet)
    plain = Folder(folder).evaluation(8)
    assert isinstance(plain, ImageSet)
    by_name = {plain[0, at].key.removesuffix(".png"): plain[0, at].image for at in range(23)}
    for at in range(23):
        assert torch.equal(images[0, at].image, by_name[images[0, at].key.partition(":")[2]])
    shard = shards(tmp_path / "out")[1]
    data = bytearray(shard.read_bytes())
    place = images.source.offsets[12] + 60
    data[place] ^= 1
    shard.write_bytes(data)
    changed = WebDataset(tmp_path / "out", index=tmp_path / "out" / INDEX).evaluation(8)
    assert changed[0, 12].bad == (f"{changed[0, 12].key}: does not have the content of the index",)


def test_shards_keep_their_limits_of_images_and_bytes(folder: Path, tmp_path: Path):
    pack(FileSource(folder), tmp_path / "count", ShardLayout(shard_images=5))
    assert [len(ShardSource([shard])) for shard in shards(tmp_path / "count")] == [5, 5, 5, 5, 3]
    pack(FileSource(folder), tmp_path / "bytes", ShardLayout(shard_bytes=20_000))
    with_end = [shard.stat().st_size for shard in shards(tmp_path / "bytes")]
    assert max(with_end) <= 20_000 + 2 * 512 + 10_240  # the end mark and the last record
    assert len(with_end) > 3
    pack(FileSource(folder), tmp_path / "each", ShardLayout(shard_bytes=1))
    assert len(shards(tmp_path / "each")) == 23


@pytest.mark.parametrize("workers", [0, 2])
def test_order_and_bytes_depend_on_the_seed_alone(workers: int, folder: Path, tmp_path: Path):
    pack(FileSource(folder), tmp_path / "once", ShardLayout(shard_images=7), workers=workers)
    pack(FileSource(folder), tmp_path / "twice", ShardLayout(shard_images=7))
    pack(FileSource(folder), tmp_path / "other", ShardLayout(shard_images=7, shuffle=1))
    pack(FileSource(folder), tmp_path / "sorted", ShardLayout(shard_images=7, shuffle=None))
    assert contents(tmp_path / "once") == contents(tmp_path / "twice")
    assert contents(tmp_path / "once") != contents(tmp_path / "other")
    keys = [story["key"] for story in stories(tmp_path / "sorted")]
    assert keys == sorted(keys)


@pytest.mark.parametrize("kills", [3, pytest.param(10, marks=pytest.mark.slow)])
def test_kills_at_random_moments_leave_no_trace(kills: int, folder: Path, tmp_path: Path):
    script = [sys.executable, str(Path(__file__).with_name("killed_packs.py")), str(folder), str(tmp_path), str(kills)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    rows = json.loads(subprocess.run(script, env=environment, capture_output=True, check=True).stdout)
    assert len(rows) == kills
    assert all(row["equal"] for row in rows)
    assert not any(row["touched"] for row in rows)
    assert any(row["died"] for row in rows)


@pytest.mark.parametrize("stop", range(0, 40, 6))
def test_a_pack_that_stops_at_any_write_is_taken_up_again(
    stop: int, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pack(FileSource(folder), tmp_path / "clean", ShardLayout(shard_images=4))
    calls, fsync = 0, os.fsync

    def failing(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls > stop:
            raise KeyboardInterrupt
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    with contextlib.suppress(KeyboardInterrupt):
        pack(FileSource(folder), tmp_path / "out", ShardLayout(shard_images=4))
    whole = {path: path.stat().st_ino for path in shards(tmp_path / "out")}
    monkeypatch.setattr(os, "fsync", fsync)
    pack(FileSource(folder), tmp_path / "out", ShardLayout(shard_images=4))
    assert contents(tmp_path / "out") == contents(tmp_path / "clean")
    assert all(path.stat().st_ino == inode for path, inode in whole.items())


def test_a_pack_that_an_earlier_version_began_is_taken_up_where_it_stopped(folder: Path, tmp_path: Path):
    """Its plan and its notes have several lines there. Of two shards that are noted, one had no name yet."""
    source, layout = FileSource(folder), ShardLayout(shard_images=4)
    manifest = pack(source, tmp_path / "clean", layout)
    progress = tmp_path / "out" / PROGRESS
    progress.mkdir(parents=True)
    plan = {"format": "imtok-pack-1", "source": source.digest, "images": 23, "shard_images": 4}
    plan |= {"shard_bytes": 10**9, "shuffle": 0, "resize": None, "encode": None, "quality": 95}
    assert manifest["plan"] == plan
    (progress / "plan.json").write_text(json.dumps(plan, indent=2) + "\n")
    found = ShardSource(shards(tmp_path / "clean"))
    for number, shard in enumerate(manifest["shards"][:2]):
        note = {"first": 4 * number, "images": 4, "captions": 0, "bad": [], "end": 4 * number + 4}
        note["hashes"] = [module.content_hash(found.read(4 * number + at)).hex() for at in range(4)]
        (progress / f"shard-{number:06d}.json").write_text(json.dumps(note | shard, indent=2) + "\n")
    first = tmp_path / "out" / "shard-000000.tar"
    first.write_bytes((tmp_path / "clean" / first.name).read_bytes())
    (tmp_path / "out" / ".shard-000001.tar.tmp").write_bytes(b"half")
    inode = first.stat().st_ino
    pack(source, tmp_path / "out", layout)
    assert first.stat().st_ino == inode
    assert contents(tmp_path / "out") == contents(tmp_path / "clean")


def test_a_finished_pack_is_left_as_it_is_and_other_settings_are_refused(folder: Path, tmp_path: Path):
    first = pack(FileSource(folder), tmp_path / "out")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert pack(FileSource(folder), tmp_path / "out") == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == times
    with pytest.raises(InputError, match=r"holds shards of other settings \(quality=95, not 80\); remove it"):
        pack(FileSource(folder), tmp_path / "out", encoding=Encoding(quality=80))
    (folder / "a" / "00.png").unlink()
    with pytest.raises(InputError, match=r"of other settings \(images=23, not 22; another source\)"):
        pack(FileSource(folder), tmp_path / "out")


def test_a_folder_of_something_else_is_not_written_to(folder: Path, tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("")
    with pytest.raises(InputError, match="already holds something else"):
        pack(FileSource(folder), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.tex"]


def test_two_processes_do_not_write_to_one_folder(folder: Path, tmp_path: Path):
    (tmp_path / "out" / PROGRESS).mkdir(parents=True)
    other = Lock(tmp_path / "out" / PROGRESS / "lock", "out=out")
    other.take()
    with pytest.raises(InputError, match=f"out is in use by process {os.getpid()} on "):
        pack(FileSource(folder), tmp_path / "out")
    other.release()
    pack(FileSource(folder), tmp_path / "out")


def test_bad_images_are_left_out_by_name_and_the_counts_add_up(folder: Path, tmp_path: Path):
    (folder / "b" / "01.png").write_bytes(b"<html>")
    (folder / "c" / "02.png").write_bytes((folder / "c" / "02.png").read_bytes()[:60])
    manifest = pack(FileSource(folder), tmp_path / "out", ShardLayout(shard_images=4))
    rows = [json.loads(line) for line in (tmp_path / "out" / BAD).read_text().splitlines()]
    assert sorted(row["key"] for row in rows) == ["b/01.png", "c/02.png"]
    assert all(row["reason"] for row in rows)
    assert (manifest["images"], manifest["bad"]) == (21, 2)


def test_nothing_but_bad_images_ends_with_one_line(tmp_path: Path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "1.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"none of the images can be decoded, the first being 1\.png: is empty"):
        pack(FileSource(tmp_path / "bad"), tmp_path / "out")


def test_an_archive_is_byte_for_byte_its_headers_its_data_and_zeros(tmp_path: Path):
    """As packs were written before webdataset wrote them."""
    draw = random.Random(0)
    for number in range(20):
        expected = b""
        with module.Archive(tmp_path / f"{number}.tar") as archive:
            for at in range(draw.randint(0, 5)):
                key = "/".join("abc"[part] * draw.randint(1, 70) for part in range(draw.randint(1, 3))) + str(at)
                fields = draw.sample(["jpg", "cls", "txt", "json"], draw.randint(1, 4))
                sample = {field: draw.randbytes(draw.choice([0, 1, 511, 512, 513, 20_000])) for field in fields}
                archive.add(key, sample)
                for field, data in sorted(sample.items()):
                    member = tarfile.TarInfo(f"{key}.{field}")
                    member.size = len(data)
                    expected += member.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % 512)
                assert archive.size == len(expected)
            digest = archive.end()
            assert not (tmp_path / f"{number}.tar").exists()
            archive.publish()
        expected += bytes(1024 + -(len(expected) + 1024) % 10240)
        assert (tmp_path / f"{number}.tar").read_bytes() == expected
        assert archive.written == len(expected)
        assert digest == hashlib.sha256(expected).hexdigest()


def test_a_full_disk_names_path_and_bytes_and_keeps_what_is_whole(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pack(FileSource(folder), tmp_path / "clean", ShardLayout(shard_images=5))
    written, write = 0, module.Archive.add

    def full(archive: module.Archive, key: str, fields: dict[str, bytes]) -> None:
        nonlocal written
        written += 1
        if written > 12:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(archive, key, fields)

    monkeypatch.setattr(module.Archive, "add", full)
    with pytest.raises(
        InputError, match=r"out not written, the disk is full: it needs about \d+ more bytes and \d+ are free; what is"
    ):
        pack(FileSource(folder), tmp_path / "out", ShardLayout(shard_images=5))
    names = [path.name for path in sorted((tmp_path / "out").iterdir())]
    assert names == [PROGRESS, "shard-000000.tar", "shard-000001.tar"]
    monkeypatch.undo()
    pack(FileSource(folder), tmp_path / "out", ShardLayout(shard_images=5))
    assert contents(tmp_path / "out") == contents(tmp_path / "clean")


def test_images_are_scaled_and_encoded_anew_only_where_asked(tmp_path: Path):
    (tmp_path / "images").mkdir()
    numbers = np.random.default_rng(0)
    for name, size in (("large.jpg", (100, 60)), ("small.jpg", (30, 20)), ("large.png", (90, 64))):
        Image.fromarray(numbers.integers(0, 256, (size[1], size[0], 3), np.uint8)).save(tmp_path / "images" / name)
    source = FileSource(tmp_path / "images")
    pack(source, tmp_path / "out", ShardLayout(shuffle=None), Encoding(resize=32))
    packed = ShardSource(shards(tmp_path / "out"))
    images = [decode_image(packed.read(at), "") for at in range(3)]
    assert [tuple(image.shape[1:]) for image in images] == [(32, 53), (32, 45), (20, 30)]
    assert [packed.read(at)[:2] for at in range(3)] == [b"\xff\xd8", b"\x89P", b"\xff\xd8"]
    assert packed.read(2) == source.read(2)
    pack(source, tmp_path / "webp", ShardLayout(shuffle=None), Encoding(encode="webp"))
    again = ShardSource(shards(tmp_path / "webp"))
    assert {again.read(at)[8:12] for at in range(3)} == {b"WEBP"}


HOSTILE = ["../x", "/etc/passwd", "a/../../b", "nul\0byte", "x" * 300, "CON", "é", unicodedata.normalize("NFD", "é")]
HOSTILE += [
    "a.b.c",
    "a\nb",
    ".hidden",
    "a//b",
    "a/",
    "C:\\x",
    "~/x",
    "-rf",
    "",
    "aux/1",
    "A",
    "a",
    "$(id)",
    "\u202egnp.x",
]


def test_hostile_keys_become_names_that_stay_in_the_folder():
    names = sample_names((stem, f"{at}:{stem}") for at, stem in enumerate(HOSTILE))
    assert len({name.lower() for name in names}) == len(HOSTILE)
    for name in names:
        path = Path("/out") / f"{name}.png"
        assert path.resolve() == path
        assert name.isascii()
        assert len(name) <= 80
        assert "." not in name


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(max_size=100), unique=True, max_size=20))
def test_names_of_any_texts_are_unlike_and_plain(stems: list[str]):
    names = sample_names((stem, stem) for stem in stems)
    assert len({name.lower() for name in names}) == len(stems)
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-/") for name in names)
    assert not any(name.startswith("/") or "//" in name for name in names)


class Named(Source):
    """Pictures under any names."""

    def __init__(self, keys: list[str], data: bytes) -> None:
        self.keys, self.data, self.classes = keys, data, ["../evil", "nul\0"]

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, index: int) -> bytes:
        return self.data

    def key(self, index: int) -> str:
        return self.keys[index]

    def label(self, index: int) -> int:
        return index % 2

    def record(self, index: int) -> str:
        return self.keys[index]


def test_a_source_with_hostile_keys_is_packed_without_leaving_the_folder(tmp_path: Path, picture: Picture):
    keys = [f"{stem}.png" for stem in HOSTILE]
    pack(Named(keys, picture(0)), tmp_path / "below" / "out", ShardLayout(shuffle=None))
    assert sorted(path.name for path in tmp_path.rglob("*")) == sorted(
        ["below", "out", "shard-000000.tar", "classes.json", BAD, INDEX, MANIFEST]
    )
    assert [story["key"] for story in stories(tmp_path / "below" / "out")] == keys
    target = tmp_path / "unpacked"
    with tarfile.open(tmp_path / "below" / "out" / "shard-000000.tar") as archive:
        archive.extractall(target, filter="data")  # which refuses whatever leads out
    assert len(list(target.rglob("*.png"))) == len(keys)


def test_what_a_process_left_aside_when_it_was_killed_is_removed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pack(FileSource(folder), tmp_path / "clean", ShardLayout(shard_images=7))
    out = tmp_path / "out"

    def killed(*_: object) -> None:
        (out / ".classes.json.17359.tmp").write_bytes(b"{")
        raise KeyboardInterrupt

    monkeypatch.setattr("imtok.data.archives.pack.store_index", killed)
    with pytest.raises(KeyboardInterrupt):
        pack(FileSource(folder), out, ShardLayout(shard_images=7))
    monkeypatch.undo()
    pack(FileSource(folder), out, ShardLayout(shard_images=7))
    assert contents(out) == contents(tmp_path / "clean")
