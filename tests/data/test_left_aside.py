"""What shards hold besides samples, and what settings do not find, is said once or refused."""

import logging

import pytest
from data.both import Both, Picture, samples

from imtok.data.check import check
from imtok.data.order.loader import train_loader
from imtok.data.sources.webdataset import Tars, WebDataset
from imtok.data.stream import ImageStream, StreamBatches
from imtok.errors import InputError


def test_an_empty_shard_beside_good_ones_is_a_named_remark(
    both: Both, picture: Picture, caplog: pytest.LogCaptureFixture
):
    both.write([("1.jpg", picture(1)), ("3.jpg", picture(3))], "0.tar")
    both.write([], "1.tar")
    both.write([("README", b""), ("2.txt", b"no image")], "2.tar")
    with caplog.at_level(logging.WARNING):
        local, remote = both.found()
        again = WebDataset(both.paths[1]).train(8, 0)
        assert isinstance(again, ImageStream)
    assert list(local) == ["1", "3"]
    assert remote == local
    remark = "no image was found in 2 shards: 1.tar, 2.tar"
    assert WebDataset(both.folder).evaluation(8).remarks == (remark,)
    assert Tars(both.folder).evaluation(8).remarks == (remark,)
    assert [record.getMessage() for record in caplog.records] == [
        "shard 1.tar: it holds no image",
        "shard 2.tar: it holds no image",
    ]


def test_shards_without_any_image_are_refused(both: Both):
    both.write([], "0.tar")
    both.write([("1.heic", b"")], "1.tar")
    for path in both.paths:
        with pytest.raises(InputError, match=r"data.path holds no JPEG, PNG"):
            samples(WebDataset(path))
    assert any("holds no JPEG, PNG" in fault for fault in check(str(both.folder)).faults)


SKIPPED = {"1.heic": ".heic", "2.HEIC": ".heic", "3.gif": ".gif", "4.jpg_large": ".jpg_large", "5.jpg.1": ".jpg.1"}
SKIPPED |= {"__thumbs__/1.jpg": "__thumbs__/ (WebDataset's own)"}
SKIPPED |= {"6.x.tiff": ".tiff", "7.bmp": ".bmp", "8.png~": ".png~", "a/9.jxl": ".jxl"}
OTHERS = [
    "1.cls",
    "1.json",
    "1.txt",
    "1.npy",
    "1.wav",
    "1.mp4",
    "1.jpg.txt",
    "1.jpg_large.json",
    "._2.heic",
    "gif",
    "1.pyd",
]


@pytest.mark.parametrize("kind", [WebDataset, Tars])
def test_pictures_of_other_kinds_are_counted_by_kind_and_fields_of_other_things_are_not(
    kind: type, both: Both, picture: Picture, caplog: pytest.LogCaptureFixture
):
    contents = {"cls": b"1", "json": b"{}", "txt": b"a cat"}
    both.write(
        [("0.jpg", picture(1)), *((name, b"x") for name in SKIPPED)]
        + [(name, contents.get(name.rpartition(".")[2], b"x")) for name in OTHERS]
    )
    remark = kind(both.folder).evaluation(8).remarks[0]
    head, _, kinds = remark.partition(": ")
    expected = {
        f"1 {suffix}" for suffix in SKIPPED.values() if suffix != ".heic" and (kind is WebDataset or suffix[0] == ".")
    }
    assert head == f"skipped {len(expected) + 2} pictures of kinds that imtok does not read"
    assert kinds.startswith("2 .heic, ")
    assert set(kinds.split(", ")[1:]) == expected
    if kind is WebDataset:
        samples(WebDataset(both.paths[1]))
        assert f"shard 0.tar: {remark}" in caplog.text


def test_the_remarks_follow_the_suffixes_that_are_read(both: Both, picture: Picture, monkeypatch: pytest.MonkeyPatch):
    both.write([("0.jpg", picture(1)), ("1.heic", picture(2))])
    for module in ("archives.members", "reading.headers"):
        monkeypatch.setattr(f"imtok.data.{module}.SUFFIXES", (b".jpg", b".heic"))
    images = WebDataset(both.folder).evaluation(8)
    assert (len(images), images.remarks) == (2, ())


def test_what_settings_do_not_find_is_said_or_refused(both: Both, picture: Picture, caplog: pytest.LogCaptureFixture):
    both.write(
        [("1.jpg", picture(1)), ("1.a.txt", b"x"), ("2.jpg", picture(2)), ("3.png", picture(3)), ("3.a.cls", b"1")]
    )
    images = WebDataset(both.folder).evaluation(8)
    assert images.remarks == (
        "no label is read from a.cls; give data.label=a.cls to read it",
        "no caption is read from a.txt; give data.caption=a.txt to read it",
    )
    images = WebDataset(both.folder, image="jpg", caption="a.txt").evaluation(8)
    assert len(images) == 2
    assert images.remarks[:2] == (
        "left out 1 sample with pictures in other fields than data.image=jpg; 2 have that field",
        "1 of 2 samples have no data.caption=a.txt",
    )
    for setting, value in (("image", "gif"), ("caption", "b.txt"), ("label", "json.label")):
        with pytest.raises(InputError, match=rf"data.{setting}={value}.*; the fields are a.cls, a.txt, jpg, png"):
            WebDataset(both.folder, **{setting: value}).train(8, 0)
    samples(WebDataset(both.paths[1], label="json.label"))
    assert "shard 0.tar: 3 of 3 samples have no data.label=json.label" in caplog.text


def test_a_stream_says_what_it_leaves_aside_once_however_many_epochs_it_reads(
    both: Both, picture: Picture, caplog: pytest.LogCaptureFixture
):
    both.write([("0.jpg", picture(0)), ("1.gif", b"")])
    for workers in (0, 1):
        images = WebDataset(both.paths[1], val_path=both.paths[1].replace("0.tar", "none.tar")).train(8, 0)
        assert isinstance(images, ImageStream)
        assert len(list(train_loader(images, StreamBatches(images, 2, number=3), workers))) == 3
    assert [record.getMessage() for record in caplog.records] == [
        "shard 0.tar: skipped 1 picture of kinds that imtok does not read: 1 .gif"
    ]
