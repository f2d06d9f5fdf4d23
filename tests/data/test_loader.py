"""Batches: the same for any number of workers, each image once in evaluation, no global randomness touched."""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from imtok.data.images import ImageSet
from imtok.data.order.loader import evaluation_loader, train_loader
from imtok.data.order.sampler import TrainBatches
from imtok.data.sources.folder import Folder
from imtok.data.sources.photos import Photos
from imtok.data.sources.webdataset import WebDataset
from imtok.errors import InputError
from imtok.types import Batch

STEPS = 7


def train(images: ImageSet, workers: int, start: int = 0, end: int = STEPS, seed: int = 3) -> list[Batch]:
    return list(train_loader(images, TrainBatches(len(images), seed, 8, start_step=start, total_steps=end), workers))


def same(first: list[Batch], second: list[Batch]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a.image, b.image) and torch.equal(a.index, b.index) and torch.equal(a.label, b.label)
        and (a.key, a.bad) == (b.key, b.bad)
        for a, b in zip(first, second, strict=True)
    )  # fmt: skip


@pytest.fixture(params=["folder", "shards", "photos"])
def images(request: pytest.FixtureRequest, folder: Path, write_shard: Callable) -> ImageSet:
    if request.param == "photos":
        return Photos(crops_per_photo=3).train(16, seed=3)
    (folder / "a" / "00.png").write_bytes(b"damaged")
    if request.param == "folder":
        return Folder(folder).train(8, seed=3)
    files = sorted(folder.rglob("*.png"))
    for shard in range(3):
        write_shard(folder / f"{shard}.tar", [(path.name, path.read_bytes()) for path in files[shard::3]])
    return WebDataset(folder, shuffle_shards=2).train(8, seed=3)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker")
def test_batches_are_bitwise_the_same_for_any_number_of_workers_and_any_resume(images: ImageSet):
    whole = train(images, workers=0)
    assert same(train(images, workers=2), whole)
    assert same(train(images, 2, end=2) + train(images, 0, 2, 3) + train(images, 3, 3), whole)
    assert {len(batch.key) for batch in whole} == {8}


def test_persistent_workers_change_nothing(images: ImageSet):
    loader = train_loader(images, TrainBatches(len(images), 3, 8, total_steps=3), workers=2)
    persistent = DataLoader(
        images, batch_sampler=loader.batch_sampler, collate_fn=loader.collate_fn, num_workers=2, persistent_workers=True
    )
    first, second = list(persistent), list(persistent)
    assert same(first, second)
    assert same(first, train(images, workers=0, end=3))


def test_seeds_and_epochs_give_other_crops(images: ImageSet):
    index = len(images) - 1
    crops = {images[epoch, index].image.numpy().tobytes() for epoch in range(20)}  # pyright: ignore
    other = ImageSet(images.source, images.transform, seed=4, training=True)
    assert len(crops) > 1
    assert any(not torch.equal(images[e, index].image, other[e, index].image) for e in range(20))  # pyright: ignore


@pytest.mark.parametrize("workers", [0, 2])
def test_global_randomness_is_neither_read_nor_moved(images: ImageSet, workers: int):
    def states() -> list[object]:
        # Python's own state is left out: beartype draws from it, in tests. What follows shows that nothing reads it.
        return [torch.get_rng_state().tolist(), str(np.random.get_state())]

    before, first = states(), train(images, workers)
    list(evaluation_loader(images, 4, workers))
    assert states() == before
    torch.manual_seed(99)
    np.random.seed(99)
    random.seed(99)
    assert same(train(images, workers), first)


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 2, 7, 11, 12])
def test_evaluation_shows_each_image_exactly_once_over_all_ranks(count: int, world: int, folder: Path):
    for path in sorted(folder.rglob("*.png"))[count:]:
        path.unlink()
    images = Folder(folder).evaluation(8)
    seen = []
    for rank in range(world):
        loader = evaluation_loader(images, 4, rank=rank, world=world)
        batches = list(loader)
        assert len(loader) == len(batches)
        own = [index for batch in batches for index in batch.index.tolist()]
        assert own == sorted(own)
        seen += own
    assert sorted(seen) == list(range(count))


def test_a_bad_image_is_replaced_in_training_and_left_out_in_evaluation(folder: Path):
    (folder / "b" / "01.png").write_bytes(b"")
    data = Folder(folder)
    (folder / "a" / "03.png").unlink()  # after it was listed
    evaluated = list(evaluation_loader(data.evaluation(8), 5))
    bad = [reason for batch in evaluated for reason in batch.bad]
    assert bad == ["b/01.png: is empty"]
    assert sum(len(batch.key) for batch in evaluated) == 21  # 23, one bad, one gone before it was listed

    images = Folder(folder).train(8, seed=0)
    place = next(index for index in range(len(images)) if images.source.key(index) == "b/01.png")
    shown = [images[epoch, place] for epoch in range(30)]
    assert all(sample.bad == ("b/01.png: is empty",) and sample.index != place for sample in shown)
    assert all(images.source.key(sample.index) == sample.key for sample in shown)
    assert len({sample.key for sample in shown}) > 5
    assert [images[epoch, place].key for epoch in range(30)] == [sample.key for sample in shown]


def test_a_file_that_vanishes_is_a_bad_image_with_a_name(folder: Path):
    images = Folder(folder).evaluation(8)
    (folder / "a" / "03.png").unlink()
    batches = list(evaluation_loader(images, 30))
    assert batches[0].bad == ["a/03.png: No such file or directory"]
    assert len(batches[0].key) == 22


def test_a_batch_without_any_good_image_is_empty_but_names_them(tmp_path: Path):
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(b"x")
    (batch,) = evaluation_loader(Folder(tmp_path).evaluation(8), 4)
    assert batch.image.shape == (0, 3, 8, 8)
    assert len(batch.bad) == 2


@pytest.mark.parametrize("workers", [0, 2])
def test_training_on_nothing_but_bad_images_ends_with_one_line(workers: int, tmp_path: Path):
    for index in range(5):
        (tmp_path / f"{index}.png").write_bytes(b"<html>")
    images = Folder(tmp_path).train(8, seed=0)
    with pytest.raises(InputError, match=r"no image could be decoded .*\.png: is a web page") as caught:
        train(images, workers)
    assert "\n" not in str(caught.value)


def test_a_loader_for_another_data_set_is_refused(folder: Path):
    with pytest.raises(ValueError, match="batches must be made for"):
        train_loader(Folder(folder).train(8, 0), TrainBatches(5, 0, 4))
