"""Where data sets lie: ImageNet's folders, plain tars, Hugging Face's tables, each with its classes and its split."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from imtok.construct import arguments
from imtok.data.images import ImageSet
from imtok.data.order.loader import train_loader
from imtok.data.order.sampler import TrainBatches
from imtok.data.sources.folder import Folder
from imtok.data.sources.huggingface import HuggingFace
from imtok.data.sources.imagenet import ImageNet
from imtok.data.sources.pipeline import Pipeline
from imtok.data.sources.webdataset import Tars, WebDataset
from imtok.errors import InputError

Picture = Callable[[int], bytes]
Write = Callable[[Path, list[tuple[str, bytes]]], Path]
WNIDS = ["n01440764", "n01443537", "n02102040"]


def labels(images: object) -> dict[str, int]:
    assert isinstance(images, ImageSet)
    return {images[0, at].key: images[0, at].label for at in range(len(images))}


def fill(folder: Path, picture: Picture, flat: bool = False) -> None:
    for split, count in (("train", 4), ("val", 2)):
        for at in range(count * len(WNIDS)):
            wnid = WNIDS[at % len(WNIDS)]
            name = f"ILSVRC2012_val_{at:08d}.JPEG" if split == "val" else f"{wnid}_{at}.JPEG"
            path = folder / split / ("" if flat and split == "val" else wnid) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(at + 50 * (split == "val")))


@pytest.mark.parametrize("inside", ["", "ILSVRC/Data/CLS-LOC", "imagenette2-160"])
def test_imagenet_is_found_in_its_layouts_and_val_is_held_out(inside: str, tmp_path: Path, picture: Picture):
    fill(tmp_path / inside, picture)
    data = ImageNet(tmp_path)
    assert data.holds_out
    assert len(data.train(8, 0)) == 12
    found = labels(data.evaluation(8))
    assert len(found) == 6
    assert all(WNIDS[label] == key.partition("/")[0] for key, label in found.items())


def test_the_test_folder_of_imagenet_is_a_split_of_its_own(tmp_path: Path, picture: Picture):
    fill(tmp_path, picture)
    with pytest.raises(InputError, match="split must be one of train, val, all, got 'test'"):
        ImageNet(tmp_path).evaluation(8, "test")
    (tmp_path / "test" / WNIDS[2]).mkdir(parents=True)
    (tmp_path / "test" / WNIDS[2] / "1.JPEG").write_bytes(picture(200))
    assert labels(ImageNet(tmp_path).evaluation(8, "test")) == {f"{WNIDS[2]}/1.JPEG": 2}
    assert len(ImageNet(tmp_path).evaluation(8)) == 6


def test_the_classes_of_a_flat_val_come_from_kaggles_table(tmp_path: Path, picture: Picture):
    fill(tmp_path / "ILSVRC/Data/CLS-LOC", picture, flat=True)
    with pytest.raises(InputError, match=r"no LOC_val_solution\.csv"):
        ImageNet(tmp_path).evaluation(8)
    rows = [f"ILSVRC2012_val_{at:08d},{WNIDS[at % 3]} 1 2 3 4 {WNIDS[at % 3]} 5 6 7 8" for at in range(6)]
    (tmp_path / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n" + "\n".join(rows[::-1]) + "\n")
    assert labels(ImageNet(tmp_path).evaluation(8)) == {f"ILSVRC2012_val_{at:08d}.JPEG": at % 3 for at in range(6)}
    (tmp_path / "LOC_val_solution.csv").write_text("something,else\n1,2\n")
    with pytest.raises(InputError, match="is not Kaggle's table"):
        ImageNet(tmp_path).evaluation(8)


def test_a_plain_tree_is_taken_as_a_folder(folder: Path):
    data = ImageNet(folder)
    assert not data.holds_out
    assert len(data.evaluation(8)) == 23


def test_the_classes_of_tars_are_their_folders_or_their_names(tmp_path: Path, write_shard: Write, picture: Picture):
    for number, wnid in enumerate(WNIDS):
        members = [(f"{wnid}_{at}.JPEG", picture(10 * number + at)) for at in range(3)]
        write_shard(tmp_path / f"{wnid}.tar", members)
    images = Tars(tmp_path, labels="archive").evaluation(8)
    assert images.source.classes == WNIDS
    assert all(WNIDS[label] == key.partition(".")[0] for key, label in labels(images).items())
    whole = [(f"./{wnid}/{at}.png", picture(10 * at)) for at in range(2) for wnid in WNIDS]
    write_shard(tmp_path / "whole.tar", [*whole, ("loose.png", picture(99))])
    found = labels(Tars(tmp_path / "whole.tar").evaluation(8))
    assert found.pop("whole.tar:loose") == -1
    assert all(WNIDS[label] == key.split(":")[1].split("/")[0] for key, label in found.items())


def table(pictures: list[bytes], structs: bool, labels: list | None, names: list[str] | None):
    """A table as Hugging Face's datasets lays it out."""
    arrow = pytest.importorskip("pyarrow")
    images = [{"bytes": data, "path": f"{at}.png"} for at, data in enumerate(pictures)] if structs else pictures
    columns = {"image": images, "text": [f"picture {at}" for at in range(len(pictures))]}
    columns |= {} if labels is None else {"label": labels}
    made = arrow.table(columns)
    if names is not None:
        about = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}, "image": {"_type": "Image"}}}}
        made = made.replace_schema_metadata({"huggingface": json.dumps(about)})
    return made


def write_parquet(path: Path, made: object, rows: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pytest.importorskip("pyarrow.parquet").write_table(made, path, row_group_size=rows)


@pytest.mark.parametrize("structs", [True, False])
def test_parquet_files_show_images_classes_captions_and_splits(structs: bool, tmp_path: Path, picture: Picture):
    for split, number, count in (("train", 0, 11), ("train", 1, 6), ("validation", 0, 5)):
        pictures = [picture(100 * number + at + 1000 * (split != "train")) for at in range(count)]
        made = table(pictures, structs, [at % 3 for at in range(count)], ["cat", "dog", "eel"])
        write_parquet(tmp_path / "data" / f"{split}-{number:05d}-of-00002.parquet", made, rows=4)
    data = HuggingFace(tmp_path, caption="text", mixed=2)
    assert data.holds_out
    training = data.train(8, 0)
    assert isinstance(training, ImageSet)
    source = training.source
    assert len(source) == 17
    assert source.classes == ["cat", "dog", "eel"]
    for at in range(17):
        file, row = divmod(at, 11) if at < 11 else (1, at - 11)
        assert source.read(at) == picture(100 * file + row)
        assert (source.label(at), source.caption(at)) == (row % 3, f"picture {row}")
        assert source.key(at) == f"train-{file:05d}-of-00002.parquet:{row:07d}"
    assert training.blocks is not None
    assert sum(training.blocks.sizes) == 17
    assert len(data.evaluation(8)) == 5
    assert len(data.evaluation(8, "all")) == 22
    order = TrainBatches(17, 0, 4, total_steps=9, blocks=training.blocks)
    plain = [batch.key for batch in train_loader(training, order)]
    assert [batch.key for batch in train_loader(training, order, workers=1)] == plain


def test_what_save_to_disk_writes_is_read(tmp_path: Path, picture: Picture):
    arrow = pytest.importorskip("pyarrow")
    made = table([picture(at) for at in range(9)], True, [f"class {at % 2}" for at in range(9)], None)
    file = tmp_path / "train" / "data-00000-of-00001.arrow"
    file.parent.mkdir()
    with arrow.OSFile(str(file), "wb") as sink, arrow.ipc.new_stream(sink, made.schema) as writer:
        writer.write_table(made, max_chunksize=4)
    data = HuggingFace(tmp_path, val_fraction=0.3)
    assert not data.holds_out
    images = data.evaluation(8)
    assert images.source.classes == ["class 0", "class 1"]
    assert [images.source.read(at) for at in range(9)] == [picture(at) for at in range(9)]
    assert [images.source.label(at) for at in range(9)] == [at % 2 for at in range(9)]
    assert len(data.train(8, 0)) + len(data.validation(8)) == 9


def test_tables_that_cannot_be_used_are_named(tmp_path: Path, picture: Picture):
    with pytest.raises(InputError, match=r"holds no \.parquet or \.arrow file"):
        HuggingFace(tmp_path).train(8, 0)
    made = table([picture(0)], True, None, None)
    write_parquet(tmp_path / "a.parquet", made, rows=1)
    with pytest.raises(
        InputError, match=r"a\.parquet has no column of images photo: there are image, text; give data\.image"
    ):
        HuggingFace(tmp_path, image="photo").train(8, 0)
    with pytest.raises(InputError, match=r"has no column of labels kind"):
        HuggingFace(tmp_path, label="kind").train(8, 0)
    assert labels(HuggingFace(tmp_path).evaluation(8)) == {"a.parquet:0000000": -1}
    (tmp_path / "a.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:200])
    with pytest.raises(InputError, match=r"a\.parquet cannot be read"):
        HuggingFace(tmp_path).train(8, 0)


def test_without_pyarrow_the_extra_that_brings_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(InputError, match=r"needs pyarrow.*; pip install 'imtok\[parquet\]'$"):
        HuggingFace(tmp_path).train(8, 0)


def test_an_image_that_is_only_a_path_is_a_bad_image(tmp_path: Path, picture: Picture):
    made = table([picture(0), picture(1)], True, None, None)
    rows = [{"bytes": None, "path": "/etc/passwd"}, {"bytes": picture(1), "path": None}]
    arrow = pytest.importorskip("pyarrow")
    made = made.set_column(0, "image", arrow.array(rows, type=made.schema.field("image").type))
    write_parquet(tmp_path / "a.parquet", made, rows=2)
    images = HuggingFace(tmp_path).evaluation(8)
    assert images[0, 0].bad == ("a.parquet:0000000: is only the path '/etc/passwd' in the table",)
    assert images[0, 1].image is not None


def test_captions_lie_beside_files_and_in_shards(folder: Path, tmp_path: Path, write_shard: Write, picture: Picture):
    from imtok.data.archives.shards import ShardSource
    from imtok.data.sources.folder import FileSource

    (folder / "a" / "00.txt").write_bytes(b"caf\xe9 " + "größe".encode())
    source = FileSource(folder)
    captions = {source.key(at): source.caption(at) for at in range(len(source))}
    assert captions.pop("a/00.png") == "caf\ufffd größe"
    assert set(captions.values()) == {None}
    shard = write_shard(tmp_path / "0.tar", [("1.txt", b"one"), ("1.png", picture(1)), ("2.png", picture(2))])
    shards = ShardSource([shard])
    assert [shards.caption(at) for at in range(2)] == ["one", None]
    assert io.BytesIO(shards.read(0)).read() == picture(1)


@pytest.mark.parametrize("content", ['{"a": 0, "b": 2}', '{"a": 0, "b": 0}', "[1]", "{torn"])
def test_a_class_map_that_is_none_is_named(content: str, tmp_path: Path, write_shard: Write, picture: Picture):
    from imtok.data.archives.shards import ShardSource

    shard = write_shard(tmp_path / "0.tar", [("1.png", picture(1))])
    (tmp_path / "classes.json").write_text(content)
    with pytest.raises(InputError, match=r"classes\.json"):
        ShardSource([shard])


@pytest.mark.parametrize("kind", [Folder, HuggingFace, ImageNet, Pipeline, Tars, WebDataset])
def test_an_argument_of_another_kind_of_data_is_refused(kind: type):
    """Settings of reading are taken by keyword, and nothing else may come in with them unread."""
    own = arguments(kind)[0]
    assert {"crop", "max_pixels"} < set(own)
    for name in {"index", "label", "caption", "val_path", "shuffle_buffer", "crops"} - set(own):
        with pytest.raises(TypeError, match=r"multiple values|unexpected keyword"):
            kind([], **{name: None}) if kind is Pipeline else kind("somewhere", **{name: None})
