"""Captions and classes as editors and other systems write them: byte order marks, other encodings, capital suffixes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from imtok.conditions.words import Words
from imtok.data.check import check
from imtok.data.images import ImageSet
from imtok.data.sources.collection import Collection
from imtok.data.sources.folder import Folder
from imtok.data.sources.webdataset import WebDataset
from imtok.data.stream import ImageStream
from imtok.data.told import told

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


def test_of_several_captions_in_shards_one_is_drawn_for_each_epoch_on_a_disk_and_in_a_stream(
    tmp_path: Path, write_shard: Write, picture: Picture
):
    members = [(f"{at}.png", picture(at)) for at in range(6)]
    members += [
        (f"{at}.json", json.dumps({"captions": [f"{at} {text}" for text in "abcde"]}).encode()) for at in range(6)
    ]
    path = write_shard(tmp_path / "0.tar", sorted(members))
    local = told(WebDataset(path, caption="json.captions").train(8, seed=3), Words())
    assert isinstance(local, ImageSet)
    stream = WebDataset("mine://host/0.tar", caption="json.captions", opener=lambda _: path.open("rb"))
    remote = stream.train(8, seed=3)
    assert isinstance(remote, ImageStream)

    def drawn(epoch: int) -> list[dict[str, str]]:
        samples = [[local[epoch, at] for at in range(len(local))], list(map(remote._sample, remote._read([0], epoch)))]
        return [{sample.key.partition(":")[2]: sample.caption for sample in found} for found in samples]

    epochs = [drawn(epoch) for epoch in range(6)]
    assert drawn(4) == epochs[4]
    for way in range(2):
        assert all(caption.startswith(key) for found in epochs for key, caption in found[way].items())
        assert len({caption[-1] for found in epochs for caption in found[way].values()}) == 5
    for data in (WebDataset(path, caption="json.captions"), stream):
        images = data.evaluation(8, "all")
        found = images.once(0, 1) if isinstance(images, ImageStream) else [images[0, 0]]
        first = next(iter(found))
        texts = images.source.texts(0) if isinstance(images, ImageSet) else first.texts
        assert texts == tuple(f"0 {text}" for text in "abcde")
