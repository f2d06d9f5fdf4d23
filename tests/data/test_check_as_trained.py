"""``imtok check`` counts the images, classes and captions that a training run on the same data has."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imtok.commands.check import run_check
from imtok.data.check import CheckSettings, check
from imtok.data.images import ImageSet
from imtok.data.sources.collection import Collection
from imtok.data.sources.folder import Folder
from imtok.data.sources.huggingface import HuggingFace
from imtok.data.sources.webdataset import Tars
from imtok.errors import InputError

Picture = Callable[[int], bytes]
Write = Callable[[Path, list[tuple[str, bytes]]], Path]


def require_equal(data: Collection, asked: CheckSettings = CheckSettings()) -> None:  # noqa: B008, it cannot change
    images = data.evaluation(8, "all")
    assert isinstance(images, ImageSet)
    source, found = images.source, check(data.path, asked=asked)
    assert found.good, found.faults
    assert (found.images, found.classes) == (len(source), source.classes)
    assert found.labels == Counter(source.label(index) for index in range(len(source)))
    assert found.captions == sum(source.caption(index) is not None for index in range(len(source))) > 0


def test_a_folder_with_metadata_is_no_table_of_images(folder: Path):
    names = [f"{'abc'[index % 3]}/{index:02d}.png" for index in range(23)]
    animals = ["fox", "owl"] * 11 + ["elk"]
    table = pa.table({"file_name": names, "text": names, "kind": animals, "says": ["x", None] * 11 + ["y"]})
    pq.write_table(table, folder / "metadata.parquet")
    require_equal(Folder(folder))
    require_equal(Folder(folder, label="kind", caption="says"), CheckSettings(label="kind", caption="says"))


def test_tables_are_looked_at_by_the_columns_of_the_run(tmp_path: Path, picture: Picture):
    rows = [{"photo": picture(index), "kind": "ab"[index]} for index in range(2)]
    pq.write_table(pa.table({"image": ["1", "2"], "sample": rows, "says": ["x", "y"]}), tmp_path / "train.parquet")
    columns = {"image": "sample.photo", "label": "sample.kind", "caption": "says"}
    require_equal(HuggingFace(tmp_path, **columns), CheckSettings(**columns))
    with pytest.raises(InputError, match="column image is text"):
        check(str(tmp_path / "train.parquet"))


@pytest.mark.parametrize("labels", ["folder", "archive", "member"])
def test_archives_have_the_classes_of_the_run(labels: str, tmp_path: Path, write_shard: Write, picture: Picture):
    members = [("x/1.png", picture(0)), ("x/1.cls", b"3"), ("x/1.txt", b"one"), ("y/2.png", picture(1))]
    write_shard(tmp_path / "n01.tar", members)
    require_equal(Tars(tmp_path, labels=labels), CheckSettings(labels=labels))  # type: ignore[arg-type], it is one of these


def test_what_only_archives_have_is_refused_of_others(folder: Path):
    with pytest.raises(InputError, match=r"data\.labels must be folder, archive or member, and of data=tars"):
        run_check([str(folder), "data.labels=archive"])
