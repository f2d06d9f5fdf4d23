"""Remote shards: each read once by one reader, resumed at the next one, and held out by the hash."""

import collections
import pickle
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest
import torch
from data.served import EACH, SHARDS, Write, epochs, keys, stream, train
from webdataset.shardlists import split_by_node, split_by_worker

from imtok.data.order.loader import evaluation_loader, train_loader
from imtok.data.order.position import StreamPosition
from imtok.data.order.sampler import epoch_order
from imtok.data.sources.webdataset import WebDataset
from imtok.data.stream import ImageStream, StreamBatches
from imtok.errors import InputError
from imtok.types import Batch

pytestmark = pytest.mark.usefixtures("pauses")


@pytest.mark.parametrize("kind", ["http", "memory"])
@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_shows_every_image_of_a_url_once_as_from_the_disk(
    kind: str, workers: int, served: Path, request: pytest.FixtureRequest
):
    url = request.getfixturevalue(kind)
    local = list(evaluation_loader(WebDataset(served).evaluation(8), 4))
    remote = list(evaluation_loader(WebDataset(url).evaluation(8), 4, workers))

    def content(batches: list[Batch]) -> dict[str, tuple[int, bytes]]:
        return {
            key: (int(label), image.numpy().tobytes())
            for batch in batches
            for key, label, image in zip(batch.key, batch.label, batch.image, strict=True)
        }

    assert content(remote) == content(local)
    assert len(keys(remote)) == SHARDS * EACH
    if workers == 0:
        assert keys(remote) == keys(local)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker")
@pytest.mark.parametrize(("world", "workers"), [(1, 0), (2, 0), (2, 2), (3, 2), (1, 3), (6, 0)])
def test_each_shard_is_read_once_an_epoch_by_one_reader(world: int, workers: int, memory: str):
    batches = 12 // world * max(1, workers)
    ranks = [train(stream(memory), batches, workers, rank, world) for rank in range(world)]
    assert all(len(own) == batches and len(batch.key) == 5 for own in ranks for batch in own)
    readers: dict[tuple[int, str], set[int]] = {}
    for rank, own in enumerate(ranks):
        for epoch, names in epochs(own).items():
            for name in names:
                readers.setdefault((epoch, name.split(":")[0]), set()).add(rank)
    assert all(len(who) == 1 for who in readers.values())
    counts = collections.Counter(
        (epoch, name) for own in ranks for epoch, names in epochs(own).items() for name in names
    )
    assert set(counts.values()) == {1}
    if SHARDS % (world * max(1, workers)) == 0:
        first = [name for own in ranks for name in epochs(own)[0]]
        assert len(first) == SHARDS * EACH


def test_a_reader_has_the_shards_that_webdatasets_splits_give_it(memory: str, monkeypatch: pytest.MonkeyPatch):
    images = stream(memory)
    for world, workers in ((1, 1), (2, 1), (1, 3), (2, 2), (3, 2)):
        order = epoch_order(SHARDS, 3, 1).tolist()
        for rank in range(world):
            for worker in range(workers):
                place = {"RANK": rank, "WORLD_SIZE": world, "WORKER": worker, "NUM_WORKERS": workers}
                for name, value in place.items():
                    monkeypatch.setenv(name, str(value))
                reader, readers = worker * world + rank, world * workers
                theirs = list(split_by_worker(split_by_node(order)))
                assert list(images._own(reader, readers, 1, StreamPosition(SHARDS))) == theirs


def test_the_order_is_a_function_of_seed_and_epoch(memory: str):
    torch.manual_seed(1)
    first = train(stream(memory), 18)
    torch.manual_seed(2)
    again = train(stream(memory), 18)
    assert keys(first) == keys(again)
    assert all(torch.equal(a.image, b.image) for a, b in zip(first, again, strict=True))
    seen = epochs(first)
    assert {len(names) for names in seen.values()} == {30}
    assert len({tuple(names) for names in seen.values()}) == 3
    assert keys(train(stream(memory, seed=4), 6)) != seen[0]


def test_without_a_buffer_images_follow_each_other_as_in_their_shard(memory: str):
    names = keys(train(stream(memory, buffer=1), 6))
    shards = [names[at : at + EACH] for at in range(0, len(names), EACH)]
    assert all(part == sorted(part) and len({name.split(":")[0] for name in part}) == 1 for part in shards)
    mixed = keys(train(stream(memory, buffer=8), 6))
    assert sorted(mixed) == sorted(names)
    assert mixed != names


def test_crops_depend_on_seed_epoch_and_key_alone(memory: str):
    def crops(batches: list[Batch]) -> dict[tuple[int, str], bytes]:
        return {
            (reading // SHARDS, key): image.numpy().tobytes()
            for batch in batches
            for key, reading, image in zip(batch.key, batch.index.tolist(), batch.image, strict=True)
        }

    alone, two = crops(train(stream(memory), 12)), crops(train(stream(memory, buffer=1), 12, workers=2))
    common = alone.keys() & two.keys()
    assert len(common) >= 30
    assert all(alone[place] == two[place] for place in common)
    assert len({alone[epoch, "shard-0.tar:00"] for epoch in range(2)}) == 2


@pytest.mark.parametrize("stop", [1, 2, 3, 5, 8])
def test_a_resumed_stream_starts_at_shards_that_were_not_begun(stop: int, memory: str):
    before = train(stream(memory, buffer=1), stop)[:stop]
    position = StreamPosition(SHARDS)
    for batch in before:
        position.note(batch)
    state = pickle.loads(pickle.dumps(position.state()))
    for world in (1, 2, 3):
        images = stream(memory, buffer=1)
        after = [
            batch for rank in range(world)
            for batch in train(images, 6, rank=rank, world=world, position=StreamPosition(SHARDS, state))
        ]  # fmt: skip
        done, left = epochs(before), epochs(after)
        for epoch in done:
            begun = {name.split(":")[0] for name in done[epoch]}
            resumed = {name.split(":")[0] for name in left.get(epoch, [])}
            assert begun.isdisjoint(resumed)
            assert len(begun | resumed) == SHARDS
    whole = train(stream(memory, buffer=1), 12)
    after = train(stream(memory, buffer=1), 12 - stop, position=StreamPosition(SHARDS, state))
    assert keys(after) == keys(whole[stop:]), "with a shard per batch and one reader nothing is lost at all"


def test_what_other_ranks_begin_meanwhile_does_not_change_who_reads_what(memory: str):
    def read(disturbed: bool) -> list[str]:
        position, names = StreamPosition(SHARDS), []
        images = stream(memory)
        for batch in train_loader(images, StreamBatches(images, 5, 1, 2, 9, position)):
            names += batch.key
            if disturbed:  # as when a checkpoint takes in a rank that is an epoch ahead
                position.note(Batch(batch.image, batch.label, batch.index + SHARDS + 1, batch.key))
                position.state()
        return names

    assert read(disturbed=True) == read(disturbed=False)


def test_the_position_forgets_epochs_that_are_over():
    position = StreamPosition(2)
    image, index = torch.zeros(5, 3, 1, 1, dtype=torch.uint8), torch.tensor([0, 1, 1, 3, 4])
    position.note(Batch(image, index, index, list("abcde")))
    assert position.state() == {"epoch": 1, "begun": {1: [1], 2: [0]}}
    position.note(Batch(image, index, torch.tensor([2, 2, 2, 2, 2]), list("abcde")))
    assert position.state() == {"epoch": 2, "begun": {2: [0]}}


def test_fewer_shards_than_readers_are_refused_with_both_numbers(memory: str):
    with pytest.raises(InputError, match=r"6 shards for 8 readers \(4 processes x 2 .*lower trainer.workers"):
        train(stream(memory), 3, workers=2, world=4)


def test_a_bad_image_is_left_out_and_named(memory: str, write_shard: Write, tmp_path: Path, picture: Callable):
    path = write_shard(tmp_path / "bad.tar", [("1.png", picture(1)), ("2.png", b"<html>"), ("3.png", picture(3))])
    fsspec.filesystem("memory").pipe("/set/bad.tar", path.read_bytes())
    (batch,) = evaluation_loader(WebDataset("memory://set/bad.tar").evaluation(8), 9)
    assert batch.key == ["bad.tar:1", "bad.tar:3"]
    assert batch.bad == ["bad.tar:2: is a web page, not JPEG, PNG, WebP or AVIF; convert or remove it"]
    (first, second) = train(stream("memory://set/bad.tar", buffer=1), 2)
    assert first.key + second.key == ["bad.tar:1", "bad.tar:3"] * 5
    assert (first.bad, second.bad) == (batch.bad * 2, batch.bad * 3)


def test_nothing_but_bad_images_ends_with_one_line(memory: str, write_shard: Write, tmp_path: Path):
    path = write_shard(tmp_path / "bad.tar", [(f"{i}.png", b"<html>") for i in range(5)])
    fsspec.filesystem("memory").pipe("/set/bad.tar", path.read_bytes())
    with pytest.raises(InputError, match=r"no image could be decoded in 32 tries, the last being bad.tar:"):
        train(stream("memory://set/bad.tar"), 2, workers=1)


def test_held_out_images_are_those_of_the_hash_wherever_they_are_read(memory: str):
    data = WebDataset(memory, val_fraction=0.3)
    training = data.train(8, 0)
    assert isinstance(training, ImageStream)
    seen = set(keys(train(training, 40)))
    held_out = set(keys(list(evaluation_loader(data.validation(8), 4))))
    assert seen.isdisjoint(held_out)
    assert len(seen | held_out) == SHARDS * EACH
    assert len(held_out) > 2
    (shown,) = data.validation(8).spread_loader(2)
    assert len(shown.key) == 2


def test_a_stream_without_an_image_of_its_part_says_so(memory: str):
    data = WebDataset(memory, val_fraction=1e-9)
    with pytest.raises(InputError, match="no held-out image"):
        data.validation(8).spread_loader(2)
    images = WebDataset(memory, val_fraction=1 - 1e-9).train(8, 0)
    assert isinstance(images, ImageStream)
    with pytest.raises(InputError, match="all are held out"):
        train(images, 1)


def test_local_and_remote_paths_may_stand_side_by_side(memory: str, served: Path):
    assert len(keys(list(evaluation_loader(WebDataset(memory, val_path=served).validation(8), 4)))) == 30
    assert len(keys(list(evaluation_loader(WebDataset(served, val_path=memory).validation(8), 4)))) == 30
