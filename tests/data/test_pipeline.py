"""A pipeline of the user's own: its samples are taken as webdataset makes them, each once, whoever splits them."""

import gc
import os
from collections import Counter
from collections.abc import Callable, Iterator
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data.served import train
from PIL import Image

from imtok.commands.pack import Keys, run_pack
from imtok.data.order.loader import evaluation_loader
from imtok.data.reading.decode import DecodeError, decode_image
from imtok.data.reading.decoded import decoded_pixels
from imtok.data.sources.pipeline import Pipeline, require_source
from imtok.data.sources.webdataset import WebDataset
from imtok.data.stream import ImageStream
from imtok.errors import InputError
from imtok.types import Batch

wds: Any = import_module("webdataset")  # its types leave out what it exports
Picture = Callable[[int], bytes]
Write = Callable[[Path, list[tuple[str, bytes]]], Path]
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # webdataset closes no file


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    yield
    gc.collect()  # so that the files of a pipeline that was left half-read go where it was read


class Samples:
    """The plainest pipeline: a list of samples, given anew whenever it is asked for."""

    def __init__(self, samples: list[Any]) -> None:
        self.samples = samples

    def __iter__(self) -> Iterator[Any]:
        return iter(self.samples)


@pytest.fixture
def shards(tmp_path: Path, write_shard: Write, picture: Picture) -> str:
    (tmp_path / "shards").mkdir()
    for shard in range(6):
        members = [
            member
            for at in range(5)
            for member in (
                (f"{at}.png", picture(shard * 5 + at)),
                (f"{at}.cls", b"%d" % shard),
                (f"{at}.txt", b"a cat"),
            )
        ]
        write_shard(tmp_path / "shards" / f"{shard}.tar", members)
    return f"{tmp_path}/shards/{{0..5}}.tar"


def keys(batches: list[Batch]) -> list[str]:
    return [key for batch in batches for key in batch.key]


def evaluated(data: Pipeline, **settings: Any) -> list[Batch]:
    return list(evaluation_loader(data.evaluation(8), 4, **settings))


def trained(data: Pipeline, batches: int, **settings: Any) -> list[Batch]:
    images = data.train(8, 3)
    assert isinstance(images, ImageStream)
    return train(images, batches, **settings)


def test_a_webdataset_of_shards_gives_the_images_of_the_shards(shards: str):
    ours = evaluated(Pipeline(wds.WebDataset(shards, shardshuffle=False)))
    theirs = list(evaluation_loader(WebDataset(str(Path(shards).parent)).evaluation(8), 4))
    assert keys(ours) == keys(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one.image, other.image)
        assert one.label.tolist() == other.label.tolist()
        assert one.caption == ["a cat"] * len(one.key)


@pytest.mark.parametrize("how", ["pil", "rgb", "rgb8", "torchrgb", "torchrgb8"])
def test_decoded_images_are_the_same_to_the_pixel(how: str, shards: str):
    plain = evaluated(Pipeline(wds.WebDataset(shards, shardshuffle=False)))
    decoded = evaluated(Pipeline(wds.WebDataset(shards, shardshuffle=False).decode(how).rename(image="png")))
    assert keys(decoded) == keys(plain)
    assert all(torch.equal(one.image, other.image) for one, other in zip(decoded, plain, strict=True))
    assert [batch.label.tolist() for batch in decoded] == [batch.label.tolist() for batch in plain]


def splits(shards: str, kind: str) -> Any:
    """Pipelines that split in every way there is, and mix in an order that no two readers share."""
    many = {"shardshuffle": 6, "empty_check": False}
    if kind == "both":
        return wds.WebDataset(shards, nodesplitter=wds.split_by_node, **many)
    if kind == "worker":
        return wds.WebDataset(shards, **many)
    if kind == "none":
        return wds.DataPipeline(wds.SimpleShardList(shards), wds.tarfile_to_samples(), wds.shuffle(20))
    return Samples(list(wds.WebDataset(shards, **many)))


@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker")
@pytest.mark.parametrize("kind", ["both", "worker", "none", "list"])
def test_every_sample_is_seen_once_whoever_splits(kind: str, shards: str, caplog: pytest.LogCaptureFixture):
    for world, workers in ((1, 0), (2, 0), (2, 2)):
        caplog.clear()
        data = Pipeline(splits(shards, kind))
        seen = Counter(
            key for rank in range(world) for key in keys(evaluated(data, workers=workers, rank=rank, world=world))
        )
        assert (len(seen), set(seen.values())) == (30, {1})
        divided = {"both": 1, "worker": world}.get(kind, world * max(1, workers))
        said = f"does not split its samples between {world} processes with {max(1, workers)} workers each"
        assert (said in caplog.text) == (divided > 1)
        assert caplog.text.count(f"every sample is read {divided} times") == (divided > 1)
        evaluation_loader(data.validation(8), 4, workers, 0, world)
        assert caplog.text.count(said) == (divided > 1), "it is said once"
    assert not {"RANK", "WORLD_SIZE", "WORKER", "NUM_WORKERS"} & set(os.environ)


def test_every_epoch_of_training_has_every_sample_once_with_other_crops(shards: str):
    data = Pipeline(wds.WebDataset(shards, shardshuffle=False), val_pipeline=Samples([]))
    batches = trained(data, 12)
    first, second = keys(batches[:6]), keys(batches[6:])
    assert sorted(first) == sorted(second)
    assert len(set(first)) == 30
    assert [batch.index.tolist() for batch in batches] == [[0] * 5] * 6 + [[1] * 5] * 6
    assert not torch.equal(batches[0].image, batches[6].image)
    assert all(torch.equal(a.image, b.image) for a, b in zip(batches, trained(data, 12), strict=True))


def test_a_part_is_held_out_by_the_hash_or_all_of_another_pipeline(shards: str):
    data = Pipeline(wds.WebDataset(shards, shardshuffle=False), val_fraction=0.3)
    held_out = set(keys(list(evaluation_loader(data.validation(8), 4))))
    assert 2 < len(held_out) < 20
    assert set(keys(trained(data, 12))).isdisjoint(held_out)
    with pytest.raises(
        InputError, match=r"^data\.pipeline gives no held-out sample; give data\.val_pipeline, or raise"
    ):
        Pipeline(data.pipeline, val_fraction=1e-9).validation(8).spread_loader(2)
    (shown,) = data.validation(8).spread_loader(2)
    assert len(shown.key) == 2
    here = WebDataset(str(Path(shards).parent), val_fraction=0.3, access="stream")
    assert held_out == set(keys(list(evaluation_loader(here.validation(8), 4)))), "as of the shards themselves"
    apart = Pipeline(Samples([]), Samples(list(wds.WebDataset(shards, shardshuffle=False))))
    assert len(keys(list(evaluation_loader(apart.validation(8), 4)))) == 30


def test_a_pipeline_without_an_end_trains_with_new_crops_and_cannot_be_measured(shards: str):
    data = Pipeline(wds.WebDataset(shards, resampled=True, shardshuffle=False))
    batches = trained(data, 24)
    crops: dict[str, set[bytes]] = {}
    for batch in batches:
        for key, image in zip(batch.key, batch.image, strict=True):
            crops.setdefault(key, set()).add(image.numpy().tobytes())
    assert max(map(len, crops.values())) > 1
    for endless in (
        wds.WebDataset(shards, resampled=True, shardshuffle=False),
        wds.WebDataset(shards, shardshuffle=False).repeat(),
    ):
        with pytest.raises(InputError, match=r"data\.pipeline has no end, .* give data\.val_pipeline"):
            Pipeline(endless).validation(8)
    assert len(keys(evaluated(Pipeline(wds.WebDataset(shards, resampled=True, shardshuffle=False).with_epoch(7))))) == 7


def test_samples_that_are_none_are_refused_in_one_line(picture: Picture):
    for sample, words in (
        ((picture(1), 3), r"gives tuple, and samples must be dicts .* leave out to_tuple and batched"),
        ({"jpg": picture(1), "cls": 3}, "gives a dict of jpg, cls, and samples must be dicts with a text in __key__"),
        ({"__key__": ["1"], "jpg": [picture(1)]}, "gives a dict of __key__, jpg, and samples must be dicts"),
        ({"__key__": "1", "jpg": picture(1), "cls": object()}, r"gives 1\.cls as object, not a number, a text"),
        ({"__key__": "1", "jpg": picture(1), "seg.png": picture(1)}, "cannot be used: it holds several images of the"),
        ({"__key__": "1", "jpg": picture(1), "cls": 0.5}, "cannot be used: it holds 1.cls, which is neither a class"),
        ({"__key__": "1", "jpg": picture(1), "cls": "owl"}, "a stream cannot number names that it does not know"),
        ({"__key__": "1", "npy": picture(1)}, "gives no sample with an image; data.image=FIELD names"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            evaluated(Pipeline(Samples([sample])))
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith("data.pipeline ")
    with pytest.raises(ValueError, match="pipeline must be an object to iterate over, which gives samples, got int"):
        require_source("pipeline", 3)


def test_a_generator_is_refused_since_it_has_one_epoch(picture: Picture):
    with pytest.raises(ValueError, match="must give its samples anew whenever it is iterated over, and generator"):
        Pipeline(sample for sample in [{"__key__": "1", "png": picture(1)}])
    with pytest.raises(InputError, match="gives a reader no image to train on"):
        trained(Pipeline(Samples([])), 1)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_shard_of_a_pipeline_that_cannot_be_read_is_one_line(workers: int, shards: str):
    folder = Path(shards).parent
    (folder / "1.tar").write_bytes((folder / "1.tar").read_bytes()[:700])
    for number, words in ((1, r"\(unexpected end of data"), (9, rf"\({folder}/9\.tar: No such file or directory\)")):
        data = Pipeline(wds.WebDataset(f"{folder}/{number}.tar", shardshuffle=False))
        with pytest.raises(
            InputError, match=rf"^data\.pipeline cannot be read {words}.*; see that its files"
        ) as caught:
            evaluated(data, workers=workers)
        assert "\n" not in str(caught.value)


def test_errors_of_the_users_own_code_are_their_own():
    class Wrong:
        def __iter__(self) -> Iterator[Any]:
            yield from [][0]

    with pytest.raises(IndexError):
        evaluated(Pipeline(Wrong()))


@pytest.mark.parametrize("more", [{}, {"resampled": True}])
def test_shards_that_are_commands_are_never_run(more: dict[str, bool], tmp_path: Path):
    for url in (f"pipe:touch {tmp_path}/marker", f" PIPE:touch {tmp_path}/marker"):
        with pytest.raises(ValueError, match=r"pipeline names the command '.*, which is never run; give plain shards"):
            Pipeline(wds.WebDataset(["0.tar", url], shardshuffle=False, **more))
        with pytest.raises(ValueError, match="val_pipeline names the command"):
            Pipeline(Samples([]), wds.DataPipeline(wds.SimpleShardList([url]), wds.tarfile_to_samples()))
    assert not (tmp_path / "marker").exists()


def test_classes_and_captions_are_read_as_in_shards(picture: Picture):
    samples = [
        {"__key__": "a", "png": picture(1), "cls": 3, "txt": "a cat"},
        {"__key__": "b", "png": picture(1), "cls": torch.tensor(4), "txt": b"a dog"},
        {"__key__": "c", "png": picture(1), "cls": np.int64(5), "json": {"label": 7}},
        {"__key__": "d", "PNG": picture(1), "json": {"label": 7}},
        {"__key__": "e", "png": picture(1), "cls": None},
    ]
    (batch,) = list(evaluation_loader(Pipeline(Samples(samples)).evaluation(8), 9))
    assert (batch.key, batch.label.tolist()) == (list("abcde"), [3, 4, 5, 7, -1])
    assert batch.caption == ["a cat", "a dog", "", "", ""]
    named = Pipeline(
        Samples([{"__key__": "a", "image": picture(1), "kind": "owl", "meta.json": {"said": "hoo"}}]),
        label="kind",
        caption="meta.json.said",
        classes=["fox", "owl"],
    )
    (batch,) = evaluated(named)
    assert (batch.label.tolist(), batch.caption) == ([1], ["hoo"])


def test_a_bad_image_is_named_and_left_out(picture: Picture):
    samples = [
        {"__key__": "a", "png": b"<html>"},
        {"__key__": "b", "png": np.full((4, 4, 3), 2.0)},
        {"__key__": "c", "png": torch.zeros(5, 4, 6)},
        {"__key__": "d", "png": "text"},
        {"__key__": "e", "png": picture(1)},
        {"__key__": "f", "png": Image.new("RGB", (9, 9))},
    ]
    (batch,) = list(evaluation_loader(Pipeline(Samples(samples), max_pixels=120).evaluation(8), 9))
    assert batch.key == ["e", "f"]
    assert batch.bad == [
        "a: is a web page, not JPEG, PNG, WebP or AVIF; convert or remove it",
        "b: holds floats from 2 to 2; they must lie in [0, 1]",
        "c: has shape (5, 4, 6), not that of a grey, RGB or RGBA image",
        "d: is str, not bytes, an image of Pillow, an array or a tensor",
    ]


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_arrays_tensors_and_pictures_are_read_alike(mode: str):
    shape = (6, 5) if mode == "L" else (6, 5, len(mode))
    levels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    file = BytesIO()
    Image.fromarray(levels).save(file, "PNG")
    truth = decode_image(file.getvalue(), "x", background=(9, 8, 7))
    first = np.moveaxis(levels, -1, 0) if levels.ndim == 3 else levels
    floats = levels.astype(np.float32) / 255
    for value in (
        Image.fromarray(levels),
        levels,
        floats,
        floats.astype(np.float64),
        torch.from_numpy(first.copy()),
        torch.from_numpy(np.moveaxis(floats, -1, 0).copy() if floats.ndim == 3 else floats),
        torch.from_numpy(levels) if levels.ndim == 3 else torch.from_numpy(levels)[None],
    ):
        assert torch.equal(decoded_pixels(value, "x", 99, (9, 8, 7)), truth)
    with pytest.raises(DecodeError, match="x: has 5 x 6 pixels, more than max_pixels=29"):
        decoded_pixels(levels, "x", 29, (0, 0, 0))
    with pytest.raises(DecodeError, match="x: holds int64; pixels must be uint8"):
        decoded_pixels(levels.astype(np.int64), "x", 99, (0, 0, 0))


def test_a_pipeline_cannot_be_packed(tmp_path: Path, picture: Picture):
    data = Pipeline(Samples([{"__key__": "1", "png": picture(1)}]))
    with pytest.raises(InputError, match="data is a stream, which cannot be packed"):
        run_pack(Keys(out=str(tmp_path / "out")), data)
