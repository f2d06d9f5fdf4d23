"""Classes of shards that are written as names have one number each, wherever they are read."""

import json
from pathlib import Path

import pytest
from data.both import HERE, Both, Picture, Write, samples, texts

from imtok.data.archives.pack import pack
from imtok.data.archives.shards import ShardSource
from imtok.data.images import ImageSet
from imtok.data.sources.webdataset import WebDataset
from imtok.data.stream import ImageStream
from imtok.errors import InputError


def test_names_of_classes_are_numbered_over_all_shards_and_held_out_images_by_the_same_classes(
    tmp_path: Path, both: Both, write_shard: Write, picture: Picture
):
    both.write([("1.jpg", picture(1)), ("1.cls", b"tench\n"), ("2.jpg", picture(2)), ("2.cls", b"cock")], "0.tar")
    both.write([("3.jpg", picture(3)), ("3.cls", b"great white shark"), ("4.jpg", picture(4))], "1.tar")
    write_shard(
        tmp_path / "val.tar", [("1.jpg", picture(5)), ("1.cls", b"tench"), ("2.jpg", picture(6)), ("2.cls", b"dog")]
    )
    data = WebDataset(both.folder, val_path=tmp_path / "val.tar")
    images, held_out = data.evaluation(8), data.validation(8)
    assert isinstance(images, ImageSet)
    assert isinstance(held_out, ImageSet)
    assert images.source.classes == held_out.source.classes == ["cock", "great white shark", "tench"]
    assert [images.source.label(at) for at in range(4)] == [2, 0, 1, -1]
    assert [held_out.source.label(at) for at in range(2)] == [2, -1]
    assert held_out.remarks == (
        f"{tmp_path}/val.tar: images of class dog have no class, because the list of classes lacks it",
        f"{tmp_path}/val.tar: there is no image of class cock and great white shark",
    )


def test_a_pack_of_held_out_images_that_lacks_a_class_has_the_numbers_of_the_training_images(
    tmp_path: Path, write_shard: Write, picture: Picture
):
    for name, classes, label in (("train", {"a": 0, "b": 1, "c": 2}, b"2"), ("val", {"a": 0, "c": 1}, b"1")):
        (tmp_path / name).mkdir()
        write_shard(tmp_path / name / "0.tar", [("1.jpg", picture(1)), ("1.cls", label)])
        (tmp_path / name / "classes.json").write_text(json.dumps(classes))
    data = WebDataset(tmp_path / "train", val_path=tmp_path / "val")
    assert [data.evaluation(8, split)[0, 0].label for split in ("all", "val")] == [2, 2]
    assert [data.evaluation(8, split).source.classes[2] for split in ("all", "val")] == ["c", "c"]


def test_a_stream_needs_to_be_told_the_classes_that_are_written_as_names(
    tmp_path: Path, both: Both, picture: Picture, caplog: pytest.LogCaptureFixture
):
    both.write([("1.jpg", picture(1)), ("1.cls", b"tench"), ("2.jpg", picture(2)), ("2.cls", b"cock")])
    with pytest.raises(
        InputError, match=r"names the class of '1' \('tench'\), .* give data.classes=FILE, .*imtok pack"
    ):
        samples(WebDataset(both.paths[1]))
    (tmp_path / "classes.json").write_text('{"tench": 1, "cat": 0, "cock": 2}')
    for classes in (["cat", "tench", "cock"], tmp_path / "classes.json"):
        local, remote = both.found(classes=classes)
        assert texts(local) == {"1": (1, ""), "2": (2, "")}
        assert remote == local
    local, remote = both.found(classes=["tench"])
    assert texts(local) == texts(remote) == {"1": (0, ""), "2": (-1, "")}
    said = "shard 0.tar: images of class cock have no class, because the list of classes lacks it"
    assert said in caplog.text
    held_out = WebDataset(both.folder, val_path=both.paths[1]).validation(8)
    assert isinstance(held_out, ImageStream)
    assert [sample.label for sample in held_out.once(0, 1)] == [1, 0]


def test_names_and_numbers_of_classes_are_not_mixed(both: Both, picture: Picture):
    both.write([("1.jpg", picture(1)), ("1.cls", b"tench"), ("2.jpg", picture(2)), ("2.cls", b"3")])
    with pytest.raises(InputError, match=r"class of 0.tar:1 \('tench'\) is a name and that of 0.tar:2 \(3\) a number"):
        WebDataset(both.folder).train(8, 0)


def test_a_pack_of_named_classes_holds_their_numbers_and_names(tmp_path: Path, both: Both, picture: Picture):
    both.write([("1.x.jpg", picture(1)), ("1.cls", b"tench"), ("2.x.jpg", picture(2)), ("2.cls", b"cock")])
    pack(ShardSource([both.folder / HERE]), tmp_path / "packed")
    packed = ShardSource(sorted((tmp_path / "packed").glob("*.tar")))
    assert packed.classes == ["cock", "tench"]
    assert {packed.stem(at): packed.label(at) for at in range(2)} == {"1": 1, "2": 0}
