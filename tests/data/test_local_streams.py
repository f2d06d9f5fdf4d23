"""Shards on a disk that are read from front to back."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from data.served import EACH, SHARDS, Write, keys, train

from imtok.data.order.loader import evaluation_loader
from imtok.data.sources.webdataset import WebDataset
from imtok.data.stream import ImageStream
from imtok.errors import InputError

pytestmark = pytest.mark.usefixtures("pauses")


def local_stream(served: Path, **settings: Any) -> WebDataset:
    return WebDataset(served, access="stream", **settings)


def test_local_shards_as_a_stream_are_the_images_of_random_access_and_come_in_the_order_of_remote_ones(
    served: Path, memory: str
):
    def content(data: WebDataset, workers: int = 0) -> list[tuple[str, int, bytes]]:
        batches = list(evaluation_loader(data.evaluation(8), 4, workers))
        rows = [zip(batch.key, batch.label.tolist(), batch.image, strict=True) for batch in batches]
        return sorted((key, label, image.numpy().tobytes()) for row in rows for key, label, image in row)

    assert content(local_stream(served)) == content(local_stream(served), 2) == content(WebDataset(served))
    for workers in (0, 2):
        here = local_stream(served, val_fraction=0.1, shuffle_buffer=4).train(8, 3)
        there = WebDataset(memory, val_fraction=0.1, shuffle_buffer=4).train(8, 3)
        assert isinstance(here, ImageStream)
        assert isinstance(there, ImageStream)
        ours, theirs = train(here, 12, workers), train(there, 12, workers)
        assert keys(ours) == keys(theirs)
        assert all(torch.equal(one.image, other.image) for one, other in zip(ours, theirs, strict=True))


def test_held_out_shards_of_a_local_stream_are_not_trained_on_whatever_they_are_called(served: Path, tmp_path: Path):
    (tmp_path / "held.tar").symlink_to(served / "shard-2.tar")
    data = local_stream(served, val_path=tmp_path / "held.tar")
    images = data.train(8, 0)
    assert isinstance(images, ImageStream)
    assert "shard-2.tar" not in [shard.name for shard in images.shards]
    assert "1 of 6 shards of data.path" in images.remarks[-1]
    assert len(keys(list(evaluation_loader(data.validation(8), 4)))) == EACH
    assert len(keys(list(evaluation_loader(data.evaluation(8, "train"), 4)))) == (SHARDS - 1) * EACH


def test_a_local_stream_reads_names_of_classes_and_names_what_it_cannot_use(
    served: Path, tmp_path: Path, write_shard: Write, picture: Callable[[int], bytes]
):
    (tmp_path / "named").mkdir()
    write_shard(tmp_path / "named/0.tar", [("1.png", picture(1)), ("1.cls", b"owl")])
    with pytest.raises(InputError, match=r"a stream cannot number names .* write the shards with imtok pack"):
        list(evaluation_loader(local_stream(tmp_path / "named").evaluation(8), 4))
    (tmp_path / "named/classes.json").write_text('{"fox": 0, "owl": 1}')
    (tmp_path / "named/2.png").write_bytes(picture(2))
    data = local_stream(tmp_path / "named", val_path=tmp_path / "named/0.tar")
    assert [batch.label.tolist() for batch in evaluation_loader(data.evaluation(8), 4)] == [[1]]
    assert [batch.label.tolist() for batch in evaluation_loader(data.validation(8), 4)] == [[1]]
    assert "1 .png beside its shards" in data.evaluation(8).remarks[0]
    with pytest.raises(InputError, match=r"shard-6\.tar cannot be read \(No such file"):
        local_stream(served / "shard-{0..9}.tar").train(8, 0)
    (served / "shard-1.tar").write_bytes((served / "shard-1.tar").read_bytes()[:2048])
    with pytest.raises(
        InputError, match=rf"shard-1\.tar could not be read in 3 tries \({served}/shard-1\.tar: is torn"
    ):
        list(evaluation_loader(local_stream(served).evaluation(8), 4))
    for setting, value in (("index", tmp_path / "index"), ("shuffle_shards", 3)):
        with pytest.raises(ValueError, match=f"{setting} must be null with access=stream"):
            local_stream(served, **{setting: value})


@pytest.mark.parametrize("access", ["random", "stream"])
def test_a_file_url_is_the_path_that_it_names(served: Path, access: Literal["random", "stream"]):
    def found(path: str) -> list[str]:
        held = path.replace("{0..4}", "5")
        data = WebDataset(path, val_path=held, access=access)
        return keys([*evaluation_loader(data.evaluation(8, "train"), 4), *evaluation_loader(data.validation(8), 4)])

    assert found(f"file://{served}/shard-{{0..4}}.tar") == found(f"{served}/shard-{{0..4}}.tar")
    assert len(found(f"file://{served}/shard-{{0..4}}.tar")) == SHARDS * EACH
