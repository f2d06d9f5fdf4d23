"""Tables: labels of every type, columns wherever they lie, parts and keys, and what cannot be read said at once."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imtok.data.images import Source
from imtok.data.sources.huggingface import HuggingFace
from imtok.errors import InputError

arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

Picture = Callable[[int], bytes]
IMAGE = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])


def images(pictures: list[bytes]) -> Any:
    return arrow.array([{"bytes": data, "path": f"{at}.png"} for at, data in enumerate(pictures)], IMAGE)


def write(path: Path, columns: dict[str, Any], features: dict[str, Any] | None = None, rows: int = 2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    made = arrow.table(columns)
    if features:
        made = made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    if path.suffix == ".parquet":
        parquet.write_table(made, path, row_group_size=rows)
    else:
        with arrow.OSFile(str(path), "wb") as sink, arrow.ipc.new_stream(sink, made.schema) as writer:
            writer.write_table(made, max_chunksize=rows)
    return path


def source(data: HuggingFace, split: str | None = None) -> Source:
    found = data.evaluation(8, split)
    return found.source  # pyright: ignore[reportAttributeAccessIssue]


def labels(found: Source) -> list[int]:
    return [found.label(at) for at in range(len(found))]


LABELS = {
    "names with a null": (arrow.array(["a", "b", "a", None]), [0, 1, 0, -1], ["a", "b"]),
    "large names": (arrow.array(["b", "a", None, "b"], arrow.large_string()), [1, 0, -1, 1], ["a", "b"]),
    "a dictionary": (arrow.array(["b", "a", None, "b"]).dictionary_encode(), [1, 0, -1, 1], ["a", "b"]),
    "numbers with a null": (arrow.array([2, None, 0, 1], arrow.int8()), [2, -1, 0, 1], []),
    "uint64": (arrow.array([2, 5, 0, None], arrow.uint64()), [2, 5, 0, -1], []),
    "unlabelled by -1": (arrow.array([-1, 3, -1, 0]), [-1, 3, -1, 0], []),
    "floats with NaN": (arrow.array([1.0, float("nan"), 0.0, None]), [1, -1, 0, -1], []),
    "float32": (arrow.array([1.0, 2.0, 0.0, 7.0], arrow.float32()), [1, 2, 0, 7], []),
    "true and false": (arrow.array([True, False, None, True]), [1, 0, -1, 1], ["False", "True"]),
    "nothing": (arrow.array([None] * 4, arrow.null()), [-1] * 4, []),
}


@pytest.mark.parametrize("name", LABELS)
def test_a_row_without_a_label_is_the_only_one_without_a_class(name: str, tmp_path: Path, picture: Picture):
    column, expected, classes = LABELS[name]
    write(tmp_path / "a.parquet", {"image": images([picture(at) for at in range(4)]), "label": column})
    found = source(HuggingFace(tmp_path))
    assert labels(found) == expected
    assert found.classes == classes


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (
            arrow.array([[0, 1], [2]]),
            r"column label is a list of numbers \(list<.*int64>\), not one class per row; give ",
        ),
        (arrow.array([{"a": 1}, {"a": 2}]), r"column label is a struct of a \(struct<a: int64>\).*data\.label=''"),
        (arrow.array([b"x", b"y"]), r"column label is bytes \(binary\).*give data\.label=COLUMN of fine, or"),
        (
            arrow.array([1.0, 0.5]),
            r"a\.parquet: column label, row 1 is 0\.5, which is not a class; give numbers from 0",
        ),
        (arrow.array([2**63, 0], arrow.uint64()), r"column label, row 0 is 9223372036854775808, which is not a class"),
    ],
)
def test_labels_of_another_type_are_refused_by_column_and_type(
    column: Any, message: str, tmp_path: Path, picture: Picture
):
    pictures = images([picture(0), picture(1)])
    path = write(tmp_path / "a.parquet", {"image": pictures, "label": column, "fine": arrow.array([0, 1])})
    with pytest.raises(InputError, match=message) as refused:
        HuggingFace(path).train(8, 0)
    assert str(path) in str(refused.value)
    assert labels(source(HuggingFace(path, label="fine"))) == [0, 1]
    assert labels(source(HuggingFace(path, label=""))) == [-1, -1]


def test_images_and_labels_in_a_struct_are_read(tmp_path: Path, picture: Picture):
    pictures = [picture(at) for at in range(5)]
    rows = [{"image": {"bytes": data, "path": None}, "label": at % 2} for at, data in enumerate(pictures)]
    kind = arrow.struct([("image", IMAGE), ("label", arrow.int64())])
    about = {"sample": {"image": {"_type": "Image"}, "label": {"names": ["no", "yes"], "_type": "ClassLabel"}}}
    for name in ("a.parquet", "b.arrow"):
        path = write(tmp_path / name, {"id": list(range(5)), "sample": arrow.array(rows, kind)}, about)
        for image in (None, "sample.image"):
            found = source(HuggingFace(path, image=image))
            assert [found.read(at) for at in range(5)] == pictures
            assert (labels(found), found.classes) == ([0, 1, 0, 1, 0], ["no", "yes"])


@pytest.mark.parametrize(
    ("column", "feature", "message"),
    [
        (
            arrow.array([[{"bytes": b"x", "path": None}]], arrow.list_(IMAGE)),
            {"feature": {"_type": "Image"}, "_type": "Sequence"},
            r"column image is a list of images \(list<.*Sequence\), not one encoded image per row",
        ),
        (
            arrow.array([[[[1, 2, 3]]]]),
            {"shape": [1, 1, 3], "dtype": "uint8", "_type": "Array3D"},
            r"column image is an array of numbers \(list<.*, Array3D\).*cast it to datasets\.Image\(\)",
        ),
        (arrow.array(["a.png"]), {}, r"column image is text \(string\).*cast it"),
        (arrow.array([{"width": 3}]), {}, r"column image is a struct of width \("),
    ],
)
def test_images_of_another_type_are_refused_by_column_and_type(
    column: Any, feature: dict[str, Any], message: str, tmp_path: Path
):
    path = write(tmp_path / "a.parquet", {"image": column}, {"image": feature} if feature else None)
    with pytest.raises(InputError, match=rf"a\.parquet: {message}"):
        HuggingFace(path).train(8, 0)


def test_a_column_that_fits_is_named_where_another_was_asked_for(tmp_path: Path, picture: Picture):
    path = write(tmp_path / "a.parquet", {"photo": images([picture(0)]), "images": arrow.array([[picture(0)]])})
    with pytest.raises(InputError, match=r"column images is a list of images .*; give data\.image=photo$"):
        HuggingFace(path).train(8, 0)
    two = write(tmp_path / "b.parquet", {s: arrow.array([{"image": b"x"}]) for s in ("left", "right")})
    with pytest.raises(InputError, match=r"several columns of images: left\.image, right\.image; give data\.image="):
        HuggingFace(two).train(8, 0)


def test_tables_with_other_columns_are_refused_by_both_files_and_columns(tmp_path: Path, picture: Picture):
    first = write(tmp_path / "a.parquet", {"image": images([picture(0)]), "label": [1]})
    second = write(tmp_path / "b.parquet", {"img": images([picture(1)]), "label": [1]})
    message = rf"{second} has other columns than {first}: only {first} has image and only {second} has img; give"
    with pytest.raises(InputError, match=message):
        HuggingFace(tmp_path).train(8, 0)
    write(second, {"image": images([picture(1)]), "label": ["cat"]})
    with pytest.raises(InputError, match=rf"column label is int64 in {first} and string in {second}"):
        HuggingFace(tmp_path).train(8, 0)
    for path, names in ((first, ["a", "b"]), (second, ["b", "a"])):
        write(path, {"image": images([picture(1)]), "label": [1]}, {"label": {"names": names, "_type": "ClassLabel"}})
    with pytest.raises(InputError, match=rf"column label has other class names in {first} than in {second}"):
        HuggingFace(tmp_path).train(8, 0)


@pytest.mark.parametrize(
    "names",
    [
        ("train/data-00000-of-00001.arrow", "test/data-00000-of-00001.arrow"),
        ("default/train/0000.parquet", "default/test/0000.parquet"),
        ("train/a/0000.parquet", "test/a/0000.parquet"),
    ],
)
def test_keys_are_unlike_in_files_of_one_name(names: tuple[str, str], tmp_path: Path, picture: Picture):
    for number, name in enumerate(names):
        write(tmp_path / name, {"image": images([picture(10 * number + at) for at in range(5)])})
    whole = source(HuggingFace(tmp_path), "all")
    keys = [whole.key(at) for at in range(len(whole))]
    assert len(set(keys)) == len(keys) == 10
    folder = names[0].partition("train")[2].rpartition("/")[0]
    assert keys[0] == f"train{folder}/{names[0].rpartition('/')[2]}:0000000"
    alone = source(HuggingFace(tmp_path / names[0]), "all")
    assert alone.key(0) == f"{Path(names[0]).name}:0000000"


def test_every_part_of_a_data_set_is_reached_and_all_is_all(tmp_path: Path, picture: Picture):
    for number, part in enumerate(("train", "validation", "test")):
        count = 5 - number
        pictures = images([picture(10 * number + at) for at in range(count)])
        write(tmp_path / f"data/{part}-00000-of-00001.parquet", {"image": pictures, "label": [part] * count})
    data = HuggingFace(tmp_path)
    sizes = {split: len(source(data, split)) for split in ("train", "val", "test", "all")}
    assert sizes == {"train": 5, "val": 4, "test": 3, "all": 12}
    assert source(data, "test").key(0) == "test-00000-of-00001.parquet:0000000"
    assert len(source(data)) == 4
    (tmp_path / "data/validation-00000-of-00001.parquet").unlink()
    data = HuggingFace(tmp_path)
    assert [len(source(data, split)) for split in ("val", "test", "all")] == [3, 3, 8]
    (tmp_path / "data/test-00000-of-00001.parquet").unlink()
    with pytest.raises(InputError, match="split must be one of train, val, all, got 'test'"):
        HuggingFace(tmp_path).evaluation(8, "test")


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("imagenet-train-00001.parquet", "train"),
        ("imagenet-val-00001.parquet", "val"),
        ("dev/0000.parquet", "val"),
        ("test/train-00000.parquet", "train"),
        ("more/testing_0.parquet", "test"),
    ],
)
def test_parts_are_told_by_hugging_faces_words_wherever_they_stand(
    name: str, part: str, tmp_path: Path, picture: Picture
):
    for number, file in enumerate(("train.parquet", "validation.parquet", "test.parquet", name)):
        write(tmp_path / file, {"image": images([picture(number)])})
    found = source(HuggingFace(tmp_path), part)
    assert sum(found.key(at).startswith(name) for at in range(len(found))) + (name.count("/")) >= 1
    assert len(found) == 2


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_images_that_are_only_paths_are_refused_at_once_with_the_cure(suffix: str, tmp_path: Path, picture: Picture):
    rows = [{"bytes": picture(0), "path": "0.png"}, {"bytes": picture(1), "path": None}, None]
    rows += [{"bytes": None, "path": f"/home/me/{at}.png"} for at in range(2)]
    path = write(tmp_path / f"a.{suffix}", {"image": arrow.array(rows, IMAGE)}, rows=3)
    message = r"row 3 of column image holds no image, only the path '/home/me/0\.png'; embed the files: .*embed_table_s"
    with pytest.raises(InputError, match=rf"{path}: {message}"):
        HuggingFace(path).train(8, 0)


def test_classes_of_other_parts_count_in_those_of_training(tmp_path: Path, picture: Picture):
    pictures = images([picture(at) for at in range(3)])
    write(tmp_path / "train.parquet", {"image": pictures, "label": ["a", "b", "c"]})
    write(tmp_path / "validation.parquet", {"image": pictures, "label": ["c", "x", None]})
    about = {"label": {"names": ["c", "a"], "_type": "ClassLabel"}}
    write(tmp_path / "test.parquet", {"image": pictures, "label": [0, 1, 0]}, about)
    data = HuggingFace(tmp_path)
    assert labels(source(data, "val")) == [2, -1, -1]
    assert labels(source(data, "test")) == [2, 0, 2]
    remarks = source(data, "val").remarks
    assert remarks == (
        f"{tmp_path}/validation.parquet: images of class x have no class, because the training images lack it",
        f"{tmp_path}/validation.parquet: there is no image of class a and b",
    )
    write(tmp_path / "test.parquet", {"image": pictures})
    assert source(HuggingFace(tmp_path), "test").remarks == (
        f"{tmp_path}/test.parquet has no column label: its images have no classes",
    )
    write(tmp_path / "test.parquet", {"image": pictures, "label": [0, 1, 2]})
    with pytest.raises(
        InputError, match=r"test\.parquet: column label holds numbers of classes, and column label of .*"
    ):
        HuggingFace(tmp_path).evaluation(8, "test")


def test_held_out_tables_of_the_path_are_not_trained_on(tmp_path: Path, picture: Picture):
    for number in range(3):
        table = arrow.table({"image": [picture(10 * number + at) for at in range(3)]})
        parquet.write_table(table, tmp_path / f"{number}.parquet", row_group_size=2)
    data = HuggingFace(tmp_path, val_path=tmp_path / "1.parquet")
    trained: Any = data.train(8, 0)
    assert [trained.source.read(at) for at in range(6)] == [picture(at) for at in (0, 1, 2, 20, 21, 22)]
    assert trained.blocks.sizes == (2, 1, 0, 0, 2, 1)
    with pytest.raises(InputError, match=r"holds every image of data\.path"):
        HuggingFace(tmp_path / "1.parquet", val_path=tmp_path).train(8, 0)


def test_check_names_what_is_wrong_with_tables(tmp_path: Path, picture: Picture):
    from imtok.data.check import check

    pictures = images([picture(0), picture(1)])
    for part, classes in (("train", ["a", "b"]), ("test", ["b", "x"])):
        write(tmp_path / part / "0.parquet", {"image": pictures, "label": classes})
    findings = check(str(tmp_path))
    assert findings.good
    assert (findings.images, findings.classes, dict(findings.labels)) == (4, ["a", "b"], {0: 1, 1: 2, -1: 1})
    write(tmp_path / "train/1.parquet", {"img": pictures, "label": ["a", "b"]})
    write(tmp_path / "train/2.parquet", {"image": arrow.array([{"bytes": None, "path": "0.png"}], IMAGE)})
    findings = check(str(tmp_path))
    assert findings.images == 6
    paths, columns = findings.faults
    assert paths.startswith(f"{tmp_path}/train/2.parquet: row 0 of column image holds no image, only the path '0.png'")
    assert columns.startswith(f"{tmp_path}/train/1.parquet has other columns than {tmp_path}/train/0.parquet: only")


@pytest.mark.parametrize(
    "column",
    [
        arrow.array([["a", "b", None, "c"], [], None, ["d"]]),
        arrow.array([["a", "b", "c"], None, [], ["d"]], arrow.large_list(arrow.large_string())),
    ],
)
def test_one_text_of_a_list_is_drawn_anew_in_every_epoch_and_all_are_given(
    column: Any, tmp_path: Path, picture: Picture
):
    pictures = images([picture(at) for at in range(4)])
    path = write(tmp_path / "a.parquet", {"image": pictures, "captions": column})
    whole: Any = HuggingFace(path, caption="captions").evaluation(8, "all")
    assert [whole.source.texts(at) for at in range(4)] == [("a", "b", "c"), (), (), ("d",)]
    assert [whole.source.caption(at) for at in range(4)] == ["a", None, None, "d"]
    training: Any = HuggingFace(path, caption="captions", val_fraction=0.01).train(8, 3)
    place = next(at for at in range(3) if training.source.key(at).endswith("0000000"))
    drawn = [training[epoch, place].caption for epoch in range(40)]
    assert drawn == [training[epoch, place].caption for epoch in range(40)]
    assert {text: drawn.count(text) > 5 for text in set(drawn)} == {"a": True, "b": True, "c": True}
    plain: Any = HuggingFace(path).train(8, 3)
    assert plain[0, place].caption == ""
    assert (plain[0, place].image == training[0, place].image).all(), "pixels do not depend on captions"


@pytest.mark.parametrize("column", [arrow.array([1, 2]), arrow.array([[1], [2]]), arrow.array([{"en": "x"}] * 2)])
def test_a_caption_column_of_another_type_is_refused(column: Any, tmp_path: Path, picture: Picture):
    path = write(tmp_path / "a.parquet", {"image": images([picture(0), picture(1)]), "text": column})
    with pytest.raises(InputError, match=r"a\.parquet: column text is .*, neither text nor a list of texts; give"):
        HuggingFace(path, caption="text").train(8, 0)
