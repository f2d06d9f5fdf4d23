"""What of a folder of images is not read, or has no class, is said."""

from collections.abc import Callable
from pathlib import Path

import pytest

from imtok.data.check import check
from imtok.data.sources.folder import FileSource, Folder
from imtok.data.sources.imagenet import ImageNet
from imtok.errors import InputError

Picture = Callable[[int], bytes]


@pytest.fixture
def two(tmp_path: Path, picture: Picture) -> Path:
    for name in ("1.png", "2.png"):
        (tmp_path / name).write_bytes(picture(1))
    return tmp_path


def test_images_beside_the_folders_of_classes_and_files_of_other_kinds_are_said(two: Path, picture: Picture):
    (two / "a").mkdir()
    for name in ("a/3.png", "a/4.png"):
        (two / name).write_bytes(picture(3))
    for name in ("a/5.tar", "6.tar.gz", "7.parquet", "a/8.npy", "a/9.xml"):
        (two / name).write_bytes(b"x")
    said = FileSource(two).remarks
    assert said[0].startswith(f"{two} holds 1 ")
    assert said[0].endswith(" beside its images, and only the images are read")
    assert all(f"1 {suffix}" in said[0] for suffix in (".tar", ".tar.gz", ".parquet"))
    assert ".npy" not in said[0]
    assert said[1] == f"{two}: 2 images that lie in no folder of a class have no class"
    (two / "2.png").unlink()
    assert FileSource(two).remarks[1] == f"{two}: an image that lies in no folder of a class has no class"


def test_a_flat_folder_to_evaluate_says_that_no_image_has_a_class_but_where_a_table_tells_it(
    tmp_path: Path, picture: Picture
):
    for name in ("train/n1/1.png", "train/n2/2.png", "val/v1.png", "val/v2.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(picture(1))
    held_out = Folder(tmp_path / "train", val_path=tmp_path / "val").validation(8)
    assert f"{tmp_path}/val: no image has a class" in held_out.remarks
    (tmp_path / "LOC_val_solution.csv").write_text("ImageId,PredictionString\nv1,n2 1\nv2,n1 1\n")
    held_out = ImageNet(tmp_path).validation(8)
    assert not any("no image has a class" in said for said in held_out.remarks)


@pytest.mark.parametrize("parts", [("training", "testing"), ("train", "dev"), ("train", "valid", "test")])
def test_folders_named_like_splits_are_said_to_be_taken_as_classes(
    parts: tuple[str, ...], tmp_path: Path, picture: Picture
):
    for part in parts:
        (tmp_path / part).mkdir()
        (tmp_path / part / "1.png").write_bytes(picture(1))
    assert "are taken as classes" in FileSource(tmp_path).remarks[0]


def test_links_that_lead_to_themselves_are_one_bad_image_and_nothing_else(two: Path):
    for name in ("3.png", "folder", "1.txt"):
        (two / name).symlink_to(name)
    assert list(check(str(two)).broken) == ["3.png"]
    (two / "metadata.csv").symlink_to("gone.csv")
    with pytest.raises(InputError, match=r"metadata\.csv cannot be read \(No such file or directory\)"):
        FileSource(two)


@pytest.mark.parametrize(
    ("table", "captions"),
    [
        ("file_name,text\n1.png,one\u2028two\n2.png,\x85\x0cx\n", ["one\u2028two", "\x85\x0cx"]),
        ('file_name, text\n1.png, one\n2.png, "two, three"\n', ["one", "two, three"]),
        ('\ufefffile_name,text\r\n1.png,"one\r\n""two"""\r\n./2.png,x\r\n', ['one\r\n"two"', "x"]),
    ],
)
def test_a_csv_is_read_by_its_own_line_ends_and_spaces_behind_commas_count_for_nothing(
    table: str, captions: list[str], two: Path
):
    (two / "metadata.csv").write_bytes(table.encode())
    source = FileSource(two)
    assert [source.caption(index) for index in range(2)] == captions
    assert source.remarks == ()


def test_metadata_of_which_no_column_is_read_is_said(two: Path):
    (two / "metadata.csv").write_text("file_name,prompt,kind\n1.png,a,b\n2.png,c,d\n")
    assert FileSource(two).remarks == (
        f"{two}: no column of its metadata is read, of prompt, kind; give data.caption=COLUMN or data.label=COLUMN",
    )
    assert FileSource(two, label="kind", caption="").remarks == ()


def test_a_single_folder_that_holds_the_folders_of_classes_is_said(tmp_path: Path, picture: Picture):
    for name in ("images/cat/1.png", "images/dog/2.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(picture(1))
    assert FileSource(tmp_path).remarks == (
        f"{tmp_path}: all images are of one class, images; data.path={tmp_path}/images takes the 2 folders in it as "
        "classes: cat and dog",
    )
    assert FileSource(tmp_path / "images").remarks == ()
