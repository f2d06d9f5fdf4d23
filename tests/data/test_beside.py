"""What lies beside images, shards and tables and is not read is said, and nothing is lost in silence."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imtok.data.archives.members import Fields
from imtok.data.archives.remote import read_remote
from imtok.data.archives.shards import ShardSource
from imtok.data.archives.transport import RemoteShard
from imtok.data.check import check
from imtok.data.sources.collection import Collection
from imtok.data.sources.huggingface import HuggingFace
from imtok.data.sources.webdataset import Tars, WebDataset
from imtok.errors import InputError

Picture = Callable[[int], bytes]
Write = Callable[[Path, list[tuple[str, bytes]]], Path]


def open_binary(path: str) -> BinaryIO:
    return Path(path).open("rb")


def require_said(data: Collection, *sentences: str) -> None:
    """What training says is what check says."""
    images = data.evaluation(8, "all")
    for sentence in sentences:
        assert sentence in images.remarks
    assert set(sentences) <= set(check(data.path).remarks)


def test_samples_without_an_image_and_members_without_a_suffix_are_counted(
    tmp_path: Path, write_shard: Write, picture: Picture
):
    members = [("1.png", picture(1)), ("1.cls", b"0"), ("2.cls", b"1"), ("3.npy", b"x"), ("3.txt", b"a fox")]
    shard = write_shard(tmp_path / "0.tar", [*members, ("pictures/4", picture(4)), ("README", b"x")])
    said = (
        "left out 2 samples with a class or a caption and no image",
        "skipped 1 picture of kinds that imtok does not read: 1 PNG without a suffix",
    )
    require_said(WebDataset(shard), *said)
    heard: list[str] = []
    assert len(list(read_remote([RemoteShard(str(shard), "0.tar")], open_binary, say=heard.append))) == 1
    assert {f"shard 0.tar: {sentence}" for sentence in said} <= set(heard)


def test_a_sample_whose_picture_lies_in_another_field_is_counted_once(
    tmp_path: Path, write_shard: Write, picture: Picture
):
    members = [("1.png", picture(1)), ("2.cls", b"1"), ("2.webp", picture(2))]
    shard = write_shard(tmp_path / "0.tar", members)
    assert ShardSource([shard], fields=Fields("png")).remarks == (
        "left out 1 sample with pictures in other fields than data.image=png; 1 have that field",
    )


@pytest.mark.parametrize("kind", [WebDataset, Tars])
def test_what_lies_beside_shards_is_said_and_a_capital_suffix_is_no_other_kind(
    kind: type[Collection], tmp_path: Path, write_shard: Write, picture: Picture
):
    (tmp_path / "below").mkdir()
    for at, name in enumerate(("0.tar", "1.TAR", "below/2.tar")):
        write_shard(tmp_path / name, [(f"{at}.png", picture(at))])
    (tmp_path / "3.tar.gz").write_bytes(gzip.compress((tmp_path / "0.tar").read_bytes()))
    (tmp_path / "4.png").write_bytes(picture(4))
    (tmp_path / "classes.json").write_text("{}")
    data = kind(tmp_path)
    (said,) = data.evaluation(8).remarks
    assert said.startswith(f"{tmp_path} holds 1 ")
    assert said.endswith(" beside its shards, and only the shards are read")
    assert set(said.split(" holds ")[1].split(" beside")[0].split(", ")) == {
        "1 .tar.gz",
        "1 .png",
        "1 .tar in folders below",
    }
    require_said(data, said)
    assert len(data.evaluation(8)) == 2  # type: ignore[arg-type], it is a list
    for name in ("0.tar", "1.TAR"):
        (tmp_path / name).unlink()
    with pytest.raises(InputError, match=r"holds no \.tar file, only 1 "):
        kind(tmp_path).evaluation(8)


def test_archives_that_are_joined_behind_any_number_of_zeros_are_refused(
    tmp_path: Path, write_shard: Write, picture: Picture
):
    data = write_shard(tmp_path / "0.tar", [("0.png", picture(0))]).read_bytes()
    (tmp_path / "0.tar").write_bytes(data + bytes(2**21))
    assert len(WebDataset(tmp_path / "0.tar").evaluation(8)) == 1  # type: ignore[arg-type], it is a list
    (tmp_path / "0.tar").write_bytes(data + bytes(2**21) + data)
    with pytest.raises(InputError, match="goes on after its end mark"):
        WebDataset(tmp_path / "0.tar").evaluation(8)


def test_tables_without_a_row_are_said_and_hidden_ones_passed_over(tmp_path: Path, picture: Picture):
    rows, none = pa.table({"image": [picture(0), picture(1)]}), pa.table({"image": pa.array([], pa.binary())})
    for name in ("train-0.parquet", "more/train-2.PARQUET", "cache-3.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pq.write_table(rows, tmp_path / name)
    (tmp_path / ".cache").mkdir()
    for name in (".cache/train-0.parquet", ".train-0.parquet"):
        pq.write_table(rows, tmp_path / name)
    pq.write_table(none, tmp_path / "train-1.parquet")
    data = HuggingFace(tmp_path)
    require_said(data, f"no row is in {tmp_path}/train-1.parquet")
    found = check(str(tmp_path))
    assert found.good
    assert found.images == len(data.evaluation(8)) == 6  # type: ignore[arg-type], it is a list
    pq.write_table(none, tmp_path / "test.parquet")
    assert check(str(tmp_path)).faults == [f"no row is in {tmp_path}/test.parquet; give a table with images"]


def test_images_that_are_null_or_only_paths_are_called_so(tmp_path: Path, picture: Picture):
    values = [{"bytes": picture(0), "path": "0.png"}, {"bytes": None, "path": "1.png"}, None]
    pq.write_table(pa.table({"image": values}), tmp_path / "train.parquet")
    assert list(check(str(tmp_path)).broken.values()) == [
        "is only the path '1.png' in the table",
        "is null in the table",
    ]
    paths = [{"bytes": None, "path": "0.png"}, {"bytes": None, "path": "1.png"}]  # so that bytes are of no type
    pq.write_table(pa.table({"image": paths}), tmp_path / "train.parquet")
    with pytest.raises(InputError, match=r"row 0 of column image holds no image, only the path '0\.png'; embed"):
        HuggingFace(tmp_path).train(8, 0)


@pytest.mark.parametrize(
    ("label", "local", "stream"),
    [
        (b"1", r"is a name and that of .* a number", "names the class of '1' and numbers that of '2'"),
        (b"7", r"is a name and that of .* a number", "names the class of '1' and numbers that of '2'"),
        (b"", r"0\.tar:1 has class 7, and the classes have names from 0 to 1", "holds '1' of class 7, and 2 classes"),
    ],
)
def test_classes_that_cannot_be_counted_are_refused_in_streams_too(
    label: bytes, local: str, stream: str, tmp_path: Path, write_shard: Write, picture: Picture
):
    first = b"fox" if label else b"7"
    members = [("1.cls", first), ("1.png", picture(1)), ("2.png", picture(2)), *([("2.cls", label)] if label else [])]
    shard = write_shard(tmp_path / "0.tar", members)
    with pytest.raises(InputError, match=local):
        WebDataset(shard, classes=["fox", "owl"]).evaluation(8)
    with pytest.raises(InputError, match=stream):
        list(read_remote([RemoteShard(str(shard), "0.tar")], open_binary, classes=["fox", "owl"]))


def test_samples_without_a_class_beside_others_are_counted(tmp_path: Path, write_shard: Write, picture: Picture):
    members = [("1.cls", b"1"), ("1.png", picture(1)), ("2.png", picture(2)), ("3.cls", b"-1"), ("3.png", picture(3))]
    require_said(WebDataset(write_shard(tmp_path / "0.tar", members)), "1 of 3 samples have no cls, and so no class")
    plain = write_shard(tmp_path / "1.tar", [("a/1.png", picture(1)), ("2.png", picture(2))])
    assert Tars(plain).evaluation(8).remarks == (f"{plain}: an image that lies in no folder of a class has no class",)


def test_arrow_files_that_were_cut_between_two_groups_of_rows_are_refused(tmp_path: Path, picture: Picture):
    table, path = pa.table({"image": [picture(at) for at in range(4)]}), tmp_path / "data.arrow"
    ends = []
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        for batch in table.to_batches(max_chunksize=2):
            writer.write_batch(batch)
            ends.append(file.tell())
    whole = path.read_bytes()
    assert len(HuggingFace(path).evaluation(8)) == 4  # type: ignore[arg-type], it is a list
    path.write_bytes(whole[: ends[0]])
    with pytest.raises(
        InputError, match=r"data\.arrow cannot be read \(it has no end mark, so that rows may be missing"
    ):
        HuggingFace(path).evaluation(8)
