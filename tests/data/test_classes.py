"""One class has one number in every part of a data set, and a class without an image is named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imtok.data.sources.folder import FileSource, Folder
from imtok.data.sources.huggingface import HuggingFace
from imtok.data.sources.imagenet import ImageNet
from imtok.data.sources.mixture import Mixture
from imtok.data.sources.webdataset import Tars, WebDataset
from imtok.errors import InputError

Picture = Callable[[int], bytes]
Write = Callable[[Path, list[tuple[str, bytes]]], Path]


def numbers(images: Any) -> dict[str, int]:
    """Labels by the first part of the key."""
    source = images.source
    return {source.key(at).replace(":", "/").split("/")[0]: source.label(at) for at in range(len(source))}


@pytest.fixture
def root(tmp_path: Path, picture: Picture) -> Path:
    """Classes a, b and c in train; in val b has no image that can be read, and x is new."""
    for at, name in enumerate(("train/a", "train/b", "train/c", "val/a", "val/c")):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / f"{at}.png").write_bytes(picture(at))
    (tmp_path / "val/b").mkdir()
    return tmp_path


@pytest.mark.parametrize("left", ["nothing", "another kind", "no folder"])
def test_a_class_without_an_image_does_not_shift_the_others(left: str, root: Path):
    if left == "another kind":
        (root / "val/b/1.heic").write_bytes(b"x")
    if left == "no folder":
        (root / "val/b").rmdir()
    for data in (ImageNet(root), Folder(root / "train", val_path=root / "val")):
        assert numbers(data.train(8, 0)) == {"a": 0, "b": 1, "c": 2}
        assert numbers(data.validation(8)) == {"a": 0, "c": 2}
        assert f"{root}/val: there is no image of class b" in data.validation(8).remarks
        assert data.train(8, 0).remarks == ()
    if left != "no folder":  # what a command reads that is given this folder alone
        alone = Folder(root / "val").evaluation(8)
        assert numbers(alone) == {"a": 0, "c": 2}
        assert f"{root}/val: there is no image of class b" in alone.remarks


def test_a_folder_that_is_no_class_stays_none(root: Path):
    (root / "train/annotations").mkdir()
    (root / "train/annotations/1.xml").write_bytes(b"x")
    (root / "train/.cache").mkdir()
    assert FileSource(root / "train").classes == ["a", "b", "c"]
    flat = root / "flat"
    (flat / "notes").mkdir(parents=True)
    (root / "train/a/0.png").rename(flat / "0.png")
    assert FileSource(flat).classes == []


def test_classes_that_training_does_not_have_are_named(root: Path, picture: Picture):
    (root / "val/aa").mkdir()
    (root / "val/aa/1.png").write_bytes(picture(9))
    held_out = ImageNet(root).validation(8)
    assert numbers(held_out) == {"a": 0, "aa": -1, "c": 2}
    assert f"{root}/val: images of class aa have no class, because the training images lack it" in held_out.remarks


def test_a_folder_of_parts_is_told_from_one_of_classes(root: Path):
    message = f"{root}: train and val are taken as classes; data=imagenet takes them as splits"
    assert Folder(root).evaluation(8).remarks == (message,)
    assert ImageNet(root).evaluation(8).remarks == (f"{root}/val: there is no image of class b",)


def test_the_classes_of_tars_count_alike_in_both_parts(
    tmp_path: Path, picture: Picture, write_shard: Callable[..., Path]
):
    for part, names in (("train", "abc"), ("val", "ac")):
        (tmp_path / part).mkdir()
        for at, name in enumerate(names):
            write_shard(tmp_path / part / f"{name}.tar", [(f"{name}/{at}.png", picture(at))])
    for labels in ("archive", "folder"):
        held_out = Tars(tmp_path / "train", labels, val_path=tmp_path / "val").validation(8)
        assert numbers(held_out) == {"a.tar": 0, "c.tar": 2}
        assert f"{tmp_path}/val: there is no image of class b" in held_out.remarks


def test_class_maps_beside_shards_count_alike_in_both_parts(
    tmp_path: Path, picture: Picture, write_shard: Callable[..., Path]
):
    for part, classes in (("train", '{"a": 0, "b": 1, "c": 2}'), ("val", '{"a": 0, "c": 1}')):
        (tmp_path / part).mkdir()
        write_shard(tmp_path / part / "0.tar", [("1.png", picture(1)), ("1.cls", b"1")])
        (tmp_path / part / "classes.json").write_text(classes)
    data = WebDataset(tmp_path / "train", val_path=tmp_path / "val")
    assert numbers(data.train(8, 0)) == {"0.tar": 1}
    assert numbers(data.validation(8)) == {"0.tar": 2}
    mixed = Mixture({"one": data, "two": data}, {"one": 1.0, "two": 1.0})
    assert numbers(mixed.validation(8)) == {"one": 2, "two": 2}


def test_a_number_beyond_the_names_of_the_classes_is_refused_by_name(
    tmp_path: Path, write_shard: Write, picture: Picture
):
    members = [("1.png", picture(1)), ("1.cls", b"1"), ("2.png", picture(2)), ("2.cls", b"5")]
    shard = write_shard(tmp_path / "0.tar", members)
    with pytest.raises(
        InputError, match=r"^0.tar:2 has class 5, and the classes have names from 0 to 2 \(a, b and c\)"
    ):
        WebDataset(shard, classes=["a", "b", "c"]).train(8, 0)
    (tmp_path / "classes.json").write_text('{"a": 0, "b": 1}')
    with pytest.raises(InputError, match=r"^0.tar:2 has class 5"):
        WebDataset(shard).train(8, 0)
    feature = {"info": {"features": {"label": {"names": ["a", "b"], "_type": "ClassLabel"}}}}
    table = pa.table({"image": [picture(1), picture(2)], "label": [1, 2]})
    table = table.replace_schema_metadata({"huggingface": json.dumps(feature)})
    pq.write_table(table, tmp_path / "train.parquet")
    with pytest.raises(InputError, match=r"^train.parquet:0000001 has class 2, and the classes have names from 0 to 1"):
        HuggingFace(tmp_path).train(8, 0)


def test_held_out_images_of_every_kind_are_numbered_by_one_rule(tmp_path: Path, write_shard: Write, picture: Picture):
    """Names that training has are its numbers, others none; images without a class are remarked."""
    for part, names in (("train", "ab"), ("val", "bz"), ("bare", "")):
        files = [(f"{name}/1.png", picture(ord(name))) for name in names] or [("1.png", picture(1))]
        for name, data in files:
            (tmp_path / part / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / part / name).write_bytes(data)
        write_shard(tmp_path / f"plain-{part}.tar", files)
        labelled = [(f"{name}/1.cls", name.encode()) for name in names]
        write_shard(tmp_path / f"{part}.tar", sorted([*files, *labelled]))
        columns = {"image": [data for _, data in files], "label": list(names) or [None]}
        pq.write_table(pa.table(columns), tmp_path / f"{part}.parquet")
    kinds = {Folder: "{}", Tars: "plain-{}.tar", WebDataset: "{}.tar", HuggingFace: "{}.parquet"}
    for kind, name in kinds.items():
        paths = {part: tmp_path / name.format(part) for part in ("train", "val", "bare")}
        held_out, bare = (kind(paths["train"], val_path=paths[part]).validation(8) for part in ("val", "bare"))
        assert held_out.source.classes == bare.source.classes == ["a", "b"]
        assert held_out.source.labels.tolist() == [1, -1]
        assert held_out.remarks[0].startswith(f"{paths['val']}: images of class z have no class, because the ")
        assert f"{paths['val']}: there is no image of class a" in held_out.remarks
        assert bare.source.labels.tolist() == [-1]
        assert f"{paths['bare']}: no image has a class" in bare.remarks


def test_names_of_classes_that_macos_spells_otherwise_are_one_class(tmp_path: Path, picture: Picture):
    """An accent beside its letter, or both as one: unzipped here and there, one folder has two spellings."""
    for name in ("train/caf\u00e9/1.png", "train/Cat/2.png", "val/cafe\u0301/3.png", "val/Cat/4.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(picture(1))
    held_out = Folder(tmp_path / "train", val_path=tmp_path / "val").validation(8)
    assert (held_out.source.labels.tolist(), held_out.remarks) == ([0, 1], ())
    for name in ("cafe\u0301", "cat"):
        (tmp_path / "train" / name).mkdir()
        (tmp_path / "train" / name / "5.png").write_bytes(picture(1))
    (said,) = FileSource(tmp_path / "train").remarks
    assert "'Cat' and 'cat'" in said
    assert said.startswith(f"{tmp_path}/train: classes differ only in case or spelling: ")
