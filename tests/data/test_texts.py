"""Captions and classes as editors and other systems write them: byte order marks, other encodings, capital suffixes."""

from collections.abc import Callable
from pathlib import Path

import pytest

from imtok.data.check import check
from imtok.data.collection import Collection
from imtok.data.folder import Folder
from imtok.data.images import ImageSet
from imtok.data.webdataset import WebDataset

Picture = Callable[[int], bytes]
Write = Callable[[Path, list[tuple[str, bytes]]], Path]
MARK = b"\xef\xbb\xbf"
CAPTIONS = {"0.txt": MARK + b"a cat", "1.TXT": b"a dog", "2.txt": b"", "3.txt": MARK, "4.txt": b"caf\xe9"}


def texts(data: Collection) -> list[tuple[str, ...]]:
    images = data.evaluation(8)
    assert isinstance(images, ImageSet)
    return [images.source.texts(index) for index in range(len(images))]


def test_captions_are_the_same_in_folders_and_shards_and_check_names_what_is_not_utf_8(
    tmp_path: Path, write_shard: Write, picture: Picture
):
    files = [(f"{at}.png", picture(at)) for at in range(5)]
    (tmp_path / "folder").mkdir()
    for name, data in [*files, *CAPTIONS.items()]:
        (tmp_path / "folder" / name).write_bytes(data)
    write_shard(tmp_path / "0.tar", sorted([*files, *CAPTIONS.items()]))
    for data in (Folder(tmp_path / "folder"), WebDataset(tmp_path / "0.tar")):
        assert texts(data) == [("a cat",), ("a dog",), (), (), ("caf\ufffd",)]
        found = check(data.path)
        assert found.captions == 3
        (fault,) = found.faults
        assert fault.endswith(": its caption is not UTF-8; write it again")
        assert "4" in fault


@pytest.mark.parametrize(("written", "label"), [(MARK + b"3", 3), (MARK + b"fox\r\n", 0), (b"007", 7), (b"-1", -1)])
def test_a_class_is_read_whatever_editor_wrote_it(
    written: bytes, label: int, tmp_path: Path, write_shard: Write, picture: Picture
):
    shard = write_shard(tmp_path / "0.tar", [("1.png", picture(1)), ("1.cls", written)])
    images = WebDataset(shard).evaluation(8)
    assert isinstance(images, ImageSet)
    assert images.source.label(0) == label
    assert images.source.classes == (["fox"] if b"fox" in written else [])


def test_a_damaged_json_is_a_fault_and_minus_one_is_no_class(tmp_path: Path, write_shard: Write, picture: Picture):
    members = [(f"{at}.png", picture(at)) for at in range(3)]
    members += [("0.json", b'{"label": -1}'), ("1.json", b'{"label": 1}'), ("2.json", b'{"label": 2')]
    write_shard(tmp_path / "0.tar", sorted(members))
    images = WebDataset(tmp_path).evaluation(8)
    assert isinstance(images, ImageSet)
    assert [images.source.label(index) for index in range(3)] == [-1, 1, -1]
    assert images.remarks == ("2.json is not JSON, so no class is read from there; write it again",)
    assert check(str(tmp_path)).faults == [f"{tmp_path}/0.tar: 2.json is not JSON; write it again"]
