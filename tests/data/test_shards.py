"""Tar shards: every fault is found and named, nothing in them runs, samples are whole and in place."""

import io
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from webdataset.tariterators import base_plus_ext

from imtok.data.archives import shards as module
from imtok.data.archives import transport
from imtok.data.archives.shard_paths import find_shards
from imtok.data.archives.shards import ShardSource
from imtok.data.images import Subset
from imtok.data.order.loader import evaluation_loader
from imtok.data.order.sampler import Blocks
from imtok.data.sources.webdataset import WebDataset
from imtok.errors import InputError
from imtok.types import Batch

Picture = Callable[[int], bytes]
Write = Callable[[Path, list[tuple[str, bytes]]], Path]


@pytest.fixture
def members(picture: Picture) -> list[tuple[str, bytes]]:
    return [member for i in range(5) for member in ((f"{i}.png", picture(i)), (f"{i}.cls", b"%d" % i))]


@pytest.fixture
def shard(tmp_path: Path, write_shard: Write, members: list[tuple[str, bytes]]) -> Path:
    return write_shard(tmp_path / "0.tar", members)


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_the_index_agrees_with_tarfile(format: int, tmp_path: Path, picture: Picture):
    names = ["1.png", "deep/" * 15 + "2.PNG", "x" * 90 + "/3.jpeg", "a.b.webp", "./4.png", "größe.png"]
    names += ["y" * 120 + "/5.png"] if format != tarfile.USTAR_FORMAT else []
    with tarfile.open(tmp_path / "0.tar", "w", format=format) as archive:
        for seed, name in enumerate(names):
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(picture(seed)), 1e9 + 0.5
            if format == tarfile.PAX_FORMAT:
                member.pax_headers = {"comment": "something"}
            archive.addfile(member, io.BytesIO(picture(seed)))
    source = ShardSource([tmp_path / "0.tar"])
    with tarfile.open(tmp_path / "0.tar") as archive:
        found = [m for m in archive.getmembers() if m.isfile()]
    assert [source.key(i) for i in range(len(source))] == [
        "0.tar:" + str(base_plus_ext(m.name.removeprefix("./"))[0]) for m in found
    ]
    assert [source.read(i) for i in range(len(source))] == [picture(i) for i in range(len(names))]
    assert source.offsets.tolist() == [m.offset_data for m in found]


def test_labels_come_from_cls_or_json_of_the_same_name(tmp_path: Path, write_shard: Write, picture: Picture):
    beside = {
        "0": [("0.cls", b" 7\n")],
        "1": [("1.json", b'{"label": 3, "caption": "a cat"}')],
        "2": [("2.json", b"{torn"), ("2.txt", b"a dog")],
        "3": [],
        "4": [("4.cls", b"1"), ("4.json", b'{"label": 2}')],
        "5": [("5.json", b'{"label": "cat"}')],
    }
    members = [member for name in beside for member in [(f"{name}.png", picture(int(name))), *beside[name]]]
    source = ShardSource([write_shard(tmp_path / "0.tar", members)])
    assert [source.label(index) for index in range(6)] == [7, 3, -1, -1, 1, -1]
    assert source.remarks == (
        "1 of 6 samples have no cls, and so no class",
        "2.json is not JSON, so no class is read from there; write it again",
        "1 sample without a class, because the label in json is not a whole number; data.label=json.label reads "
        "names of classes too",
    )


def cut(size: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:size]


def damaged_header(data: bytes) -> bytes:
    return data[:1030] + b"X" + data[1031:]


# how to damage a good shard, and what the message must say
FAULTS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (cut(0), "is empty"),
    "short": (cut(100), "is not a tar archive"),
    "web_page": (lambda _: b"<html>" * 500, "is not a tar archive"),
    "gzip": (lambda _: b"\x1f\x8b" + bytes(2000), "gzip-compressed"),
    "cut_between_members": (cut(2048), "torn.*without an end mark"),
    "cut_inside_a_member": (cut(700), "torn inside"),
    "cut_inside_a_header": (cut(1024 + 512 + 512 + 100), "torn"),
    "damaged_header": (damaged_header, "damaged header at byte 1024"),
    "joined": (lambda data: data + data, "after its end mark"),
    "no_members": (lambda _: bytes(10240), "no JPEG, PNG"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_shard_is_named_before_anything_is_read(fault: str, shard: Path):
    damage, reason = FAULTS[fault]
    shard.write_bytes(damage(shard.read_bytes()))
    with pytest.raises(InputError, match=f"shard .*0.tar cannot be used: it .*{reason}") as caught:
        WebDataset(shard.parent).train(8, 0)
    assert "\n" not in str(caught.value)


def streamed(path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Batch]:
    """The images of shards that are read from front to back."""
    monkeypatch.setattr(transport.time, "sleep", lambda _: None)
    return list(evaluation_loader(WebDataset(path, access="stream").evaluation(8), 9))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_stream_names_a_damaged_shard_in_the_same_words(fault: str, shard: Path, monkeypatch: pytest.MonkeyPatch):
    damage, reason = FAULTS[fault]
    shard.write_bytes(damage(shard.read_bytes()))
    said = reason if fault == "no_members" else rf"^shard 0\.tar could not be read in 3 tries \({shard}: .*{reason}"
    with pytest.raises(InputError, match=said) as caught:
        streamed(shard, monkeypatch)
    assert "\n" not in str(caught.value)


CONTENTS: dict[str, tuple[list[str], str]] = {
    "duplicate_name": (["1.png", "1.png"], "two members named '1.png'"),
    "duplicate_name_in_capitals": (["1.png", "1.PNG"], "two members named '1.PNG'"),
    "duplicate_name_of_a_class": (["1.png", "1.cls", "1.cls"], "two members named '1.cls'"),
    "duplicate_name_of_another_type": (
        ["1.png", "1.jpg"],
        "several images of the sample '1'.*jpg, png: give data.image",
    ),
    "duplicate_name_apart": (["1.png", "2.png", "1.png"], "members of '1' in two places, .*sorted by name"),
    "no_image": (["1.txt", "2.json"], "no JPEG, PNG"),
    "bad_class": (["1.png", "1.cls"], "neither a class index nor the name"),
    "leads_out": (["../../1.png"], "leads out of it"),
    "leads_out_inside": (["a/../../../etc/1.png"], "leads out of it"),
}


@pytest.mark.parametrize("fault", CONTENTS)
def test_a_shard_with_unusable_contents_is_named(fault: str, tmp_path: Path, write_shard: Write):
    names, reason = CONTENTS[fault]
    write_shard(tmp_path / "0.tar", [(name, b"seven\neight") for name in names])
    with pytest.raises(InputError, match=f"0.tar cannot be used: it .*{reason}"):
        WebDataset(tmp_path).train(8, 0)


@pytest.mark.parametrize("fault", CONTENTS)
def test_a_stream_names_a_shard_with_unusable_contents(
    fault: str, tmp_path: Path, write_shard: Write, monkeypatch: pytest.MonkeyPatch
):
    names, reason = CONTENTS[fault]
    write_shard(tmp_path / "0.tar", [(name, b"seven\neight") for name in names])
    with pytest.raises(
        InputError, match=reason if fault == "no_image" else f"^shard 0.tar cannot be used: it .*{reason}"
    ):
        streamed(tmp_path, monkeypatch)


def test_a_missing_shard_is_named(shard: Path):
    with pytest.raises(InputError, match=r"1.tar cannot be read \(No such file"):
        WebDataset(f"{shard.parent}/{{0..1}}.tar").train(8, 0)


def test_one_bad_image_is_named_and_the_others_are_shown(tmp_path: Path, write_shard: Write, picture: Picture):
    write_shard(tmp_path / "0.tar", [("1.png", picture(1)), ("2.png", picture(2)[:100]), ("3.png", picture(3))])
    (batch,) = evaluation_loader(WebDataset(tmp_path).evaluation(8), 9)
    assert batch.key == ["0.tar:1", "0.tar:3"]
    assert batch.bad == ["0.tar:2: is a truncated PNG (no end mark)"]


@pytest.mark.parametrize("change", ["removed", "cut", "grown", "folder"])
def test_a_shard_that_changes_during_a_run_ends_it_by_name_after_three_tries(
    change: str, shard: Path, monkeypatch: pytest.MonkeyPatch
):
    pauses: list[float] = []
    monkeypatch.setattr(module.time, "sleep", pauses.append)
    images = WebDataset(shard.parent).train(8, 0)
    whole = shard.read_bytes()
    shard.unlink()
    if change == "folder":
        shard.mkdir()
    elif change != "removed":
        shard.write_bytes(whole[:2000] if change == "cut" else whole + bytes(512))
    with pytest.raises(InputError, match=r"0.tar can no longer be read .*; restore it and resume"):
        images[0, 0]
    assert len(pauses) == 2


def test_a_shard_that_comes_back_in_time_is_read(shard: Path, monkeypatch: pytest.MonkeyPatch):
    images = WebDataset(shard.parent).train(8, 0)
    away = shard.rename(shard.with_name("away"))
    monkeypatch.setattr(module.time, "sleep", lambda _: away.exists() and away.rename(shard))
    assert images[0, 0].bad == ()


class Gadget:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return (os.mkdir, (str(self.marker),))


@pytest.mark.parametrize("access", ["random", "stream"])
def test_nothing_in_a_hostile_shard_runs_or_is_followed(
    access: Literal["random", "stream"], tmp_path: Path, picture: Picture
):
    marker = tmp_path / "marker"
    gadget = pickle.dumps(Gadget(marker))
    objects = io.BytesIO()
    np.save(objects, np.array([Gadget(marker)], dtype=object), allow_pickle=True)
    with tarfile.open(tmp_path / "0.tar", "w") as archive:

        def add(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE) -> None:
            member = tarfile.TarInfo(name)
            member.size, member.type = len(data), kind
            archive.addfile(member, io.BytesIO(data))

        add("good.png", picture(1))
        for suffix in ("pyd", "pkl", "pickle", "pth", "pt", "py", "sh"):
            add(f"good.{suffix}", gadget)
        add("good.npy", objects.getvalue())
        add("pickled.png", gadget)
        add("folder.png", kind=tarfile.DIRTYPE)
        add("/absolute/other.png", picture(2))
        add("line\nbreak\x1b[31m.png", picture(3))
    (batch,) = evaluation_loader(WebDataset(tmp_path, access=access).evaluation(8), 9)
    assert batch.key == ["0.tar:good", "0.tar:absolute/other", r"0.tar:line\nbreak\x1b[31m"]
    assert batch.bad == ["0.tar:pickled: is unknown, not JPEG, PNG, WebP or AVIF; convert or remove it"]
    assert not marker.exists()


@pytest.mark.parametrize("size", [2**33, 2**62, 2**80])
def test_a_member_that_claims_to_be_huge_is_refused(size: int, shard: Path, monkeypatch: pytest.MonkeyPatch):
    member = tarfile.TarInfo("huge.png")
    member.size = size
    header = member.tobuf(tarfile.GNU_FORMAT)
    shard.write_bytes(header + shard.read_bytes())
    with pytest.raises(InputError, match=r"torn inside b'huge.png'"):
        WebDataset(shard.parent).train(8, 0)
    with pytest.raises(InputError, match=r"could not be read in 3 tries .*torn inside b'huge.png'"):
        streamed(shard, monkeypatch)


@pytest.mark.parametrize(
    "records",
    [b"99 path=x\n", b"-5 path=x\n", b"11 size=-1\n", b"14 size=1e9999\n", b"5 ab\n", b"\xff\xff", b"0 path=x\n"],
)
def test_damaged_extended_headers_are_refused(records: bytes, shard: Path, monkeypatch: pytest.MonkeyPatch):
    member = tarfile.TarInfo("x")
    member.type, member.size = tarfile.XHDTYPE, len(records)
    data = member.tobuf(tarfile.USTAR_FORMAT) + records.ljust(512, b"\0")
    shard.write_bytes(data + shard.read_bytes())
    with pytest.raises(InputError, match=r"0.tar cannot be used: it has a damaged extended header"):
        WebDataset(shard.parent).train(8, 0)
    with pytest.raises(InputError, match=r"could not be read in 3 tries .*has a damaged extended header"):
        streamed(shard, monkeypatch)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("pipe:touch MARKER", "is a command, which is never run"),
        (" pipe:touch MARKER", "is a command, which is never run"),
        ("touch MARKER |", "is a command, which is never run"),
        ("file:/etc/passwd", "must be a plain path"),
        ("file://host/etc/passwd", "must be a plain path"),
        ("local://etc/passwd", "must be a plain path"),
        ("shard-{000..", "brace"),
        ("shard-{0..99}{0..99999}.tar", "more than"),
        ("nowhere/*.tar", "matches no file"),
        ("nowhere/0.tar", "No such file"),
    ],
)
def test_paths_that_are_no_local_shards_are_refused(
    path: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=reason):
        WebDataset(path).train(8, 0)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_a_file_braces_and_stars_name_the_same_shards(tmp_path: Path, write_shard: Write, picture: Picture):
    paths = [write_shard(tmp_path / f"s-{i:03d}.tar", [(f"{i}.png", picture(i))]) for i in range(3)]
    (tmp_path / ".hidden.tar").write_bytes(b"")
    assert find_shards(str(tmp_path)) == paths
    assert find_shards(f"{tmp_path}/s-{{000..002}}.tar") == paths
    assert find_shards(f"{tmp_path}/s-*.tar") == paths
    assert find_shards(str(paths[1])) == paths[1:2]


def test_an_empty_folder_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"holds no \.tar file"):
        WebDataset(tmp_path).train(8, 0)


def test_a_shard_named_twice_is_refused(shard: Path):
    with pytest.raises(InputError, match=r"names 0.tar twice"):
        WebDataset(f"{{{shard},{shard}}}").train(8, 0)


def test_shards_in_several_folders_keep_their_folders_in_keys(tmp_path: Path, write_shard: Write, picture: Picture):
    for name in "ab":
        (tmp_path / name).mkdir()
        write_shard(tmp_path / name / "0.tar", [("1.png", picture(1))])
    source = WebDataset(f"{tmp_path}/{{a,b}}/0.tar").evaluation(8).source
    assert [source.key(0), source.key(1)] == ["a/0.tar:1", "b/0.tar:1"]


def test_fewer_shards_than_processes_is_no_problem(shard: Path):
    images = WebDataset(shard.parent).evaluation(8)
    seen = [
        i for rank in range(4) for batch in evaluation_loader(images, 2, 0, rank, world=4) for i in batch.index.tolist()
    ]
    assert sorted(seen) == [0, 1, 2, 3, 4]


def open_files() -> int:
    """Files that this process holds open; 0 where the system does not tell."""
    listing = Path("/proc/self/fd")
    return len(list(listing.iterdir())) if listing.exists() else 0


def test_open_files_stay_few_and_do_not_travel(tmp_path: Path, write_shard: Write, picture: Picture):
    paths = [write_shard(tmp_path / f"{i:03d}.tar", [(f"{i}.png", picture(i))]) for i in range(80)]
    source = ShardSource(paths)
    before = open_files()
    assert [source.read(i) for i in range(80)] == [picture(i) for i in range(80)]
    assert open_files() - before <= 64
    copy = pickle.loads(pickle.dumps(source))
    assert copy._open == {}
    assert copy.read(79) == picture(79)
    del source, copy
    assert open_files() <= before


def test_a_part_of_the_shards_keeps_its_blocks(tmp_path: Path, write_shard: Write, picture: Picture):
    counts = [3, 1, 4]
    paths = [
        write_shard(tmp_path / f"{i}.tar", [(f"{j}.png", picture(j)) for j in range(count)])
        for i, count in enumerate(counts)
    ]
    part = Subset(ShardSource(paths, mixed=2), np.array([0, 2, 5, 6, 7]))
    assert part.blocks == Blocks((2, 0, 3), 2)
    assert [part.key(index) for index in range(5)] == ["0.tar:0", "0.tar:2", "2.tar:1", "2.tar:2", "2.tar:3"]
