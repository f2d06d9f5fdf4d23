"""Lists and streams of the same images keep one contract, and nobody asks which of the two is given."""

import re
from pathlib import Path

import pytest
import torch
from data.served import EACH, SHARDS

import imtok
from imtok.data.contract import Images
from imtok.data.reading.transforms import CentreCrop
from imtok.data.sources.pairs import Pairs
from imtok.data.sources.webdataset import WebDataset
from imtok.errors import InputError


@pytest.fixture
def listed(served: Path) -> Images:
    return WebDataset(served).evaluation(8)


@pytest.fixture
def streamed(served: Path) -> Images:
    return WebDataset(served, access="stream").evaluation(8)


def test_whole_batches_come_in_the_order_of_the_list_with_any_number_of_workers(listed: Images, streamed: Images):
    every = list(listed.whole_loader(4, 0, lambda _: True))
    for images in (listed, streamed):
        for workers in (0, 2):
            batches = list(images.whole_loader(4, workers, lambda number: number % 3 == 1))
            assert len(batches) == len(every) == -(-SHARDS * EACH // 4)
            for ours, theirs in list(zip(batches, every, strict=True))[1::3]:
                assert ours.key == theirs.key
                assert torch.equal(ours.image, theirs.image)
    assert [len(batch.key) for batch in listed.whole_loader(4, 0, lambda number: number == 2)] == [0, 0, 4, *[0] * 5]


def test_of_a_list_it_is_known_how_many_images_there_are_and_what_they_lack(listed: Images, streamed: Images):
    assert (listed.count, listed.size, listed.lacking("label", 7)) == (30, "30", (0, 7))
    assert (streamed.count, streamed.size, streamed.lacking("label", 7)) == (None, "6 shards", (0, 0))
    assert listed.cache_key.endswith(" 30 8")
    assert (streamed.cache_key, streamed.samples(3), streamed.kind) == ("", [], "a stream")
    assert [sample.index for sample in listed.samples(3)] == [0, 14, 29]


def test_some_images_of_a_list_and_all_of_a_stream_are_taken(listed: Images, streamed: Images):
    assert (listed.spread(7).count, listed.shuffled(7, 0).count, listed.shuffled(None, 0).count) == (7, 7, 30)
    assert listed.spread(30) is listed
    assert streamed.spread(7) is streamed.shuffled(7, 0) is streamed


def test_another_crop_leaves_the_images_as_they_are(listed: Images, streamed: Images):
    for images in (listed, streamed):
        smaller = images.cropped(CentreCrop(4))
        assert (smaller.image_size, images.image_size) == (4, 8)
        assert next(iter(smaller.spread_loader(2))).image.shape[-1] == 4


def test_captions_are_read_where_somebody_wants_them(listed: Images, streamed: Images):
    for images in (listed, streamed):
        images.ask_captions(True)
        assert next(iter(images.whole_loader(4, 0, lambda _: True))).caption == ["a caption"] * 4


def test_pairs_cannot_be_made_of_a_stream(served: Path):
    with pytest.raises(
        InputError, match=r"^data\.targets is a stream, which cannot be paired; give shards on this disk"
    ):
        Pairs(WebDataset(served, access="stream"), served).train(8, seed=0)


def test_only_three_places_ask_for_the_class_of_images():
    """One refuses streams, one skips shards of a list, and one looks for names in a list beside a stream."""
    asking = re.compile(r"isinstance\(.*(ImageSet|ImageStream)\b")
    package = Path(imtok.__file__).parent
    asked = [path.relative_to(package).as_posix() for path in package.rglob("*.py") if asking.search(path.read_text())]
    assert sorted(asked) == ["data/base.py", "data/reading/boxes.py", "export/feed.py"]
