"""Tables beside images, as in Hugging Face's image folders: captions and classes, and every row that does not fit."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imtok.data.sources.folder import FileSource, Folder
from imtok.data.sources.imagenet import ImageNet
from imtok.errors import InputError

Picture = Callable[[int], bytes]
Rows = list[dict[str, Any]]


@pytest.fixture
def root(tmp_path: Path, picture: Picture) -> Path:
    for at, name in enumerate(("a/0.png", "a/1.png", "b/größe.png", "loose.png")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(picture(at))
    return tmp_path


def write(path: Path, rows: Rows) -> None:
    if path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    elif path.suffix == ".csv":
        lines = [list(rows[0]), *([row[name] for name in rows[0]] for row in rows)]
        cells = [["" if cell is None else f'"{cell}"' for cell in line] for line in lines]
        path.write_text("\ufeff" + "".join(",".join(line) + "\r\n" for line in cells))
    else:
        arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(arrow.Table.from_pylist(rows), path)


def labels(source: FileSource) -> dict[str, int]:
    return {source.key(at): source.label(at) for at in range(len(source))}


def texts(source: FileSource) -> dict[str, tuple[str, ...]]:
    return {source.key(at): source.texts(at) for at in range(len(source)) if source.texts(at)}


ROWS: Rows = [
    {"file_name": "b/größe.png", "text": "two", "label": "dog", "number": 7},
    {"file_name": "a/0.png", "text": "none, \nyet", "label": "cat", "number": 0},
    {"file_name": "./a/1.png", "text": None, "label": None, "number": None},
    {"file_name": "loose.png", "text": "three", "label": "dog", "number": 7},
]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_captions_and_classes_come_from_the_table(suffix: str, root: Path):
    write(root / f"metadata.{suffix}", ROWS)
    source = FileSource(root)
    assert source.classes == ["cat", "dog"]
    assert labels(source) == {"a/0.png": 0, "a/1.png": -1, "b/größe.png": 1, "loose.png": 1}
    assert texts(source) == {"a/0.png": ("none, \nyet",), "b/größe.png": ("two",), "loose.png": ("three",)}
    assert source.caption(0) == "none, \nyet"
    assert source.remarks == ()
    numbered = FileSource(root, label="number", caption="label")
    assert labels(numbered) == {"a/0.png": 0, "a/1.png": -1, "b/größe.png": 7, "loose.png": 7}
    assert texts(numbered)["a/0.png"] == ("cat",)
    assert numbered.classes == []
    folders = FileSource(root, label="", caption="")
    assert folders.classes == ["a", "b"]
    assert texts(folders) == {}


def test_numbers_in_a_csv_are_classes_and_texts_stay_as_they_are(root: Path):
    rows = ["file_name,text,label", "a/0.png,7,3", "a/1.png,0,", "loose.png,08,12", "b/größe.png,1,1.0"]
    (root / "metadata.csv").write_text("\n".join(rows))
    source = FileSource(root)
    assert labels(source) == {"a/0.png": 3, "a/1.png": -1, "b/größe.png": 1, "loose.png": 12}
    assert texts(source) == {"a/0.png": ("7",), "a/1.png": ("0",), "b/größe.png": ("1",), "loose.png": ("08",)}


def test_rows_and_images_that_do_not_fit_are_named(root: Path):
    write(root / "metadata.jsonl", [*ROWS[1:3], {"file_name": "a/gone.png", "text": "?"}])
    assert FileSource(root).remarks == (
        f"{root}/metadata.jsonl names a file that is not among the images: a/gone.png",
        f"{root}: 2 images have no row in a table of metadata: b/größe.png",
    )
    write(root / "metadata.jsonl", [{"file": "x", "text": "?"}])
    source = FileSource(root)
    assert source.remarks[0] == f"{root}/metadata.jsonl has no column file_name, so it is not read"
    assert source.classes == ["a", "b"]


def test_a_table_counts_for_the_folders_below_it_and_a_deeper_one_before_it(root: Path):
    write(
        root / "a/metadata.jsonl", [{"file_name": "0.png", "text": "deep"}, {"file_name": "../loose.png", "text": "up"}]
    )
    write(
        root / "metadata.csv", [{"file_name": "a/0.png", "text": "high"}, {"file_name": "a/1.png", "text": "high too"}]
    )
    found = texts(FileSource(root))
    assert found == {"a/0.png": ("deep",), "a/1.png": ("high too",), "loose.png": ("up",)}
    write(root / "a/metadata.csv", [{"file_name": "0.png", "text": "deep"}])
    with pytest.raises(
        InputError, match=r"a/metadata\.jsonl is the second table of metadata in its folder; keep one of them"
    ):
        FileSource(root)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("jsonl", '{"file_name": "a/0.png"}\n{"file_name": "a/1', r"line 2 is not a JSON object; correct"),
        ("jsonl", '{"file_name": "a/0.png"}\n["a/1.png"]', r"line 2 is not a JSON object; correct"),
        ("jsonl", '{"file_name": "a/0.png"}\n{"text": "x"}', r"line 2 has no file_name; correct"),
        ("jsonl", '{"file_name": "a/0.png"}\n{"file_name": "a/./0.png"}', r"line 2 names a/0\.png a second time"),
        ("csv", "file_name,text\na/0.png,x\na/1.png\n", r"line 3 has other fields than the first line; correct"),
        ("csv", "file_name,text\na/0.png,x\na/1.png,y,z\n", r"line 3 has other fields than the first line; correct"),
        ("csv", 'file_name,text\na/0.png,"x\n', r"line 2 is broken \(unexpected end of data\); correct"),
        ("csv", b"file_name,text\na/0.png,\xff\n", r"metadata\.csv cannot be read \(it is not UTF-8\)"),
        (
            "jsonl",
            '{"file_name": "a/0.png", "label": [1, 2]}',
            r"a/0\.png: column label .* is \[1, 2\], which is not a class",
        ),
        ("jsonl", '{"file_name": "a/0.png", "text": {"en": "x"}}', r"a/0\.png: column text .* neither text nor a list"),
        ("parquet", b"PAR1", r"metadata\.parquet cannot be read"),
    ],
)
def test_a_broken_row_is_refused_by_table_and_line(name: str, content: str | bytes, message: str, root: Path):
    (root / f"metadata.{name}").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message):
        Folder(root).train(8, 0)


def test_a_column_that_is_not_there_is_refused_with_those_that_are(root: Path):
    with pytest.raises(
        InputError, match=r"data\.caption=title is not a column .*: there is no table with rows of images"
    ):
        Folder(root, caption="title").train(8, 0)
    write(root / "metadata.jsonl", ROWS)
    with pytest.raises(
        InputError, match=r"data\.label=kind is not a column .*: there are file_name, text, label, number"
    ):
        Folder(root, label="kind").train(8, 0)


def test_classes_of_both_parts_count_alike(root: Path, picture: Picture):
    for part, classes in (("train", ["cat", "dog", "eel"]), ("val", ["eel", "cat", "fox"])):
        rows: Rows = []
        for at, name in enumerate(classes):
            (root / part).mkdir(exist_ok=True)
            (root / part / f"{at}.png").write_bytes(picture(at))
            rows.append({"file_name": f"{at}.png", "label": name})
        write(root / part / "metadata.jsonl", rows)
    for data in (Folder(root / "train", val_path=root / "val"), ImageNet(root)):
        held_out: Any = data.validation(8)
        assert list(labels(held_out.source).values()) == [2, 0, -1]
        assert f"{root}/val: images of class fox have no class, because the training images lack it" in held_out.remarks


def test_held_out_images_may_lack_the_metadata_of_the_training_images(root: Path):
    write(root / "metadata.jsonl", ROWS)
    column = next(name for name in ROWS[0] if name not in ("file_name", "label"))
    held_out = Folder(root, val_path=root / "a", caption=column).validation(8)
    assert f"{root}/a has no column {column} in its metadata: its images have no captions" in held_out.remarks
    with pytest.raises(InputError, match=f"data.caption={column} is not a column of the metadata"):
        Folder(root / "a", caption=column).train(8, 0)
