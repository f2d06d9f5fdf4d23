"""``imtok check``: every fault that was put in is named, and nothing else is."""

import json
import os
import pickle
import tarfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from imtok.commands.check import _show, run_check
from imtok.data.archives.archive import Archive
from imtok.data.archives.pack import INDEX, MANIFEST, ShardLayout, pack
from imtok.data.check import check
from imtok.data.sources.folder import FileSource
from imtok.errors import InputError

Picture = Callable[[int], bytes]
Write = Callable[[Path, list[tuple[str, bytes]]], Path]


@pytest.fixture
def packed(folder: Path, tmp_path: Path) -> Path:
    pack(FileSource(folder), tmp_path / "packed", ShardLayout(shard_images=6))
    return tmp_path / "packed"


def test_a_folder_is_counted_by_format_mode_size_and_class(folder: Path):
    Image.new("L", (30, 40)).save(folder / "a" / "grey.jpg")
    Image.new("RGBA", (50, 20)).save(folder / "b" / "clear.webp")
    (folder / "c" / "cut.png").write_bytes((folder / "c" / "02.png").read_bytes()[:80])
    (folder / "a" / "00.txt").write_text("a caption")
    found = check(str(folder))
    assert found.images == 26
    assert found.formats == {"PNG": 23, "JPEG": 1, "WebP": 1}
    assert found.modes == {"RGB": 23, "L": 1, "RGBA": 1}
    assert found.short == {10: 23, 30: 1, 20: 1}
    assert found.long == {12: 23, 40: 1, 50: 1}
    assert found.labels == {0: 9, 1: 9, 2: 8}
    assert found.classes == ["a", "b", "c"]
    assert found.captions == 1
    assert list(found.broken) == ["c/cut.png"]
    assert not found.good


def test_workers_change_nothing(folder: Path):
    assert check(str(folder), workers=2) == check(str(folder))


def test_a_pack_is_good_and_its_progress_adds_up(packed: Path, monkeypatch: pytest.MonkeyPatch):
    told: list[tuple[int, int]] = []
    bar = nullcontext(lambda count, total: told.append((count, total)))
    monkeypatch.setattr("imtok.data.check.bar", lambda name: bar)
    found = check(str(packed))
    assert found.good, found.faults
    assert sum(count for count, _ in told) == found.images == 23
    assert {total for _, total in told} == {23}


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: flip(folder / "shard-000001.tar", 700), "shard-000001.tar: does not have the sha256"),
        (lambda folder: flip(folder / "classes.json", 3), "classes.json: does not have the sha256"),
        (
            lambda folder: (folder / "bad.jsonl").write_text("x"),
            "bad.jsonl",
        ),
        (lambda folder: (folder / "shard-000002.tar").unlink(), "shard-000002.tar: is in the manifest and not there"),
        (lambda folder: flip(folder / INDEX, 900), f"{INDEX}: does not have the sha256"),
        (lambda folder: (folder / "more.tar").write_bytes(b""), "more.tar: is not in the manifest"),
    ],
)
def test_every_damage_of_a_pack_is_named(damage, message: str, packed: Path):
    damage(packed)
    found = check(str(packed))
    assert any(message in fault for fault in found.faults), found.faults


def test_every_byte_of_a_pack_is_guarded(packed: Path):
    shard = packed / "shard-000000.tar"
    for place in range(0, shard.stat().st_size, shard.stat().st_size // 12):
        flip(shard, place)
        assert not check(str(packed)).good, place
        flip(shard, place)
    assert check(str(packed)).good


def test_a_damaged_manifest_is_refused(packed: Path):
    manifest = json.loads((packed / MANIFEST).read_text())
    manifest["images"] += 1
    (packed / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"manifest\.json is damaged"):
        check(str(packed))


def test_a_pack_that_was_not_finished_is_told(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    publish = Archive.publish

    def stop(archive: Archive) -> None:
        if archive.path.name == "shard-000002.tar":
            raise KeyboardInterrupt
        publish(archive)

    monkeypatch.setattr(Archive, "publish", stop)
    with pytest.raises(KeyboardInterrupt):
        pack(FileSource(folder), tmp_path / "out", ShardLayout(shard_images=6))
    assert any("was not packed to its end" in fault for fault in check(str(tmp_path / "out")).faults)


def test_keys_in_two_shards_and_torn_shards_are_named(tmp_path: Path, write_shard: Write, picture: Picture):
    write_shard(tmp_path / "0.tar", [("1.png", picture(1)), ("2.png", picture(2))])
    write_shard(tmp_path / "1.tar", [("2.png", picture(3)), ("3.png", b"<html>")])
    write_shard(tmp_path / "2.tar", [("4.png", picture(4)), ("4.jpg", picture(5))])
    torn = write_shard(tmp_path / "3.tar", [("5.png", picture(6)), ("6.png", picture(7))])
    torn.write_bytes(torn.read_bytes()[:1536])
    found = check(str(tmp_path))
    text = "\n".join(found.faults)
    assert "key 2: is in 0.tar and in 1.tar" in text
    assert "2.tar cannot be used: it holds several images of the sample '4'" in text
    assert "3.tar cannot be used: it is torn" in text
    assert found.broken == {"1.tar:3": "is a web page, not JPEG, PNG, WebP or AVIF; convert or remove it"}
    assert (found.images, len(found.faults)) == (4, 3)


def test_an_index_of_other_shards_is_named(tmp_path: Path, packed: Path, folder: Path):
    pack(FileSource(folder), tmp_path / "other", ShardLayout(shard_images=7))
    (packed / MANIFEST).unlink()
    (packed / INDEX).write_bytes((tmp_path / "other" / INDEX).read_bytes())
    assert any("data.index is not of this data" in fault for fault in check(str(packed)).faults)


def test_images_that_are_not_those_of_the_index_are_named(packed: Path):
    (packed / MANIFEST).unlink()
    with tarfile.open(packed / "shard-000000.tar") as archive:
        member = next(m for m in archive if m.name.endswith(".png"))
    flip(packed / "shard-000000.tar", member.offset_data + member.size - 1)
    found = check(str(packed))
    assert list(found.broken) == [f"shard-000000.tar:{member.name.removesuffix('.png')}"]


class Gadget:
    """Runs a command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.mark.parametrize(
    "hostile",
    ["pyd", "pkl", "pickle", "pth", "npy", "json", "traversal", "absolute", "symlink", "hard link", "device", "huge"],
)
def test_hostile_archives_run_nothing_and_write_nothing(
    hostile: str, tmp_path: Path, write_shard: Write, picture: Picture
):
    marker, shards = tmp_path / "ran", tmp_path / "shards"
    shards.mkdir()
    gadget, good = pickle.dumps(Gadget(marker)), [("1.png", picture(1)), ("1.cls", b"0")]
    links = {"symlink": tarfile.SYMTYPE, "hard link": tarfile.LNKTYPE, "device": tarfile.CHRTYPE}
    if hostile in links:
        write_shard(shards / "0.tar", good)
        with tarfile.open(shards / "0.tar", "a") as archive:
            archive.addfile(special("2.png", links[hostile], "/etc/passwd"))
    elif hostile == "huge":
        member = tarfile.TarInfo("2.png")
        member.size = 2**40
        (shards / "0.tar").write_bytes(member.tobuf() + bytes(10_240))
    else:
        extra = {"traversal": "../../ran", "absolute": str(marker), "json": "2.json"}.get(hostile, f"2.{hostile}")
        suffix = ".png" if hostile in ("traversal", "absolute") else ""
        data = picture(2) if suffix else gadget
        write_shard(shards / "0.tar", [*good, (extra + suffix, data), *([("2.png", picture(2))] if not suffix else [])])
    found = check(str(shards))
    assert found.images <= 2
    assert hostile not in ("traversal", "huge") or found.faults
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shards"]
    assert [path.name for path in shards.iterdir()] == ["0.tar"]


@pytest.mark.parametrize("path", ["pipe:touch ran", "|touch ran", "DIR/{0..", "DIR/nothing", "s3://bucket/{0..3}.tar"])
def test_paths_that_are_no_data_are_refused(path: str, tmp_path: Path):
    with pytest.raises(InputError):
        check(path.replace("DIR", str(tmp_path)))
    assert not list(tmp_path.iterdir())


def test_the_command_prints_each_fault_and_says_so_by_its_code(
    folder: Path, packed: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "120")
    assert run_check([str(packed)]) == 0
    assert "nothing is wrong" in capsys.readouterr().out
    (folder / "a" / "00.png").write_bytes(b"")
    assert run_check([str(folder), "--workers", "1"]) == 1
    printed = capsys.readouterr().out
    assert "a/00.png: is empty" in printed
    assert "1 fault" in printed
    for arguments in ([], ["a", "b"], ["a", "--workers"], ["a", "--workers=x"], ["--fast"]):
        with pytest.raises(InputError, match="imtok check takes"):
            run_check(arguments)


def test_names_of_classes_are_shown_with_their_brackets(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "[red]").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "[red]" / "1.png")
    assert run_check([str(tmp_path)]) == 0
    assert "[red]" in capsys.readouterr().out


def test_a_thousand_classes_are_shown_in_a_few_lines(folder: Path):
    found = check(str(folder))
    found.classes, found.labels = [f"class {at}" for at in range(1000)], found.labels
    console = Console(record=True, width=100, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    _show(found, console)
    console.file.close()
    text = console.export_text()
    assert "class 999" in text
    assert "class 500" not in text
    assert len(text.splitlines()) < 60
