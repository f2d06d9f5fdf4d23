"""What a list of images hashes to: by records as ever, or by columns where there are many images."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from data.served import Write

from imtok.data import source as module
from imtok.data.images import ImageSet, Source, Subset
from imtok.data.sources.folder import Folder
from imtok.data.sources.webdataset import WebDataset


def shards_of(folder: Path, place: Path, write_shard: Write) -> Path:
    """The same images in three shards, some of them with a class."""
    place.mkdir()
    files = sorted(folder.rglob("*.png"))
    for shard in range(3):
        members = [(path.name, path.read_bytes()) for path in files[shard::3]]
        write_shard(place / f"{shard}.tar", [*members, ("z.png", files[0].read_bytes()), ("z.cls", b"%d" % shard)])
    return place


@pytest.fixture
def sources(folder: Path, tmp_path: Path, write_shard: Write) -> list[Source]:
    (folder / "odd\n.png").write_bytes((folder / "a" / "00.png").read_bytes())
    files = Folder(folder).evaluation(8)
    shards = WebDataset(shards_of(folder, tmp_path / "shards", write_shard)).evaluation(8)
    assert isinstance(files, ImageSet)
    assert isinstance(shards, ImageSet)
    whole = [files.source, shards.source]
    return [*whole, *(Subset(source, np.array([1, 2, 5, 20])) for source in whole)]


def test_the_digest_by_records_is_that_of_every_earlier_version(sources: list[Source], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "AT_A_TIME", 4)  # records at once
    for source in sources:
        lines = [source.record(index) for index in range(len(source))]
        assert source.records(np.arange(len(source))) == lines
        expected = hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()
        assert source.identity == {"sha256": expected}
        assert source.digest == expected


def test_beyond_four_million_images_it_is_made_of_columns(
    folder: Path, tmp_path: Path, write_shard: Write, monkeypatch: pytest.MonkeyPatch
):
    assert module.LISTED == 4_194_304
    shards = shards_of(folder, tmp_path / "shards", write_shard)
    before = WebDataset(shards).train(8, 0)
    old = before.about
    assert set(old) == {"images", "sha256"}
    monkeypatch.setattr(module, "LISTED", 0)
    now = WebDataset(shards).train(8, 0)
    assert set(now.about) == {"images", "xxh3"}
    assert now.was(now.about)
    assert now.was(old), "a run of before goes on"
    assert not now.was({**old, "sha256": "0" * 64})
    assert not now.was({**now.about, "xxh3": "0" * 32})
    assert not before.was(now.about)
    moved = WebDataset(shards.rename(tmp_path / "elsewhere")).train(8, 0)
    assert moved.about == now.about


@pytest.mark.parametrize("kind", ["folder", "shards"])
def test_columns_see_every_change_that_records_see(
    kind: str, folder: Path, tmp_path: Path, write_shard: Write, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "LISTED", 0)
    number = iter(range(9))

    def digests() -> tuple[str, str]:
        path = folder if kind == "folder" else shards_of(folder, tmp_path / f"shards{next(number)}", write_shard)
        images = (Folder if kind == "folder" else WebDataset)(path).evaluation(8)
        assert isinstance(images, ImageSet)
        return images.source.sha256, images.digest

    found = [digests()]
    (folder / "a" / "00.png").rename(folder / "a" / "01.png")
    found.append(digests())
    (folder / "a" / "01.png").rename(folder / "b" / "011.png")
    found.append(digests())
    (folder / "b" / "04.png").unlink()
    found.append(digests())
    assert len({sha256 for sha256, _ in found}) == len({digest for _, digest in found}) == len(found)
    assert digests() == found[-1]


def test_which_images_of_a_source_are_taken_changes_its_digest(sources: list[Source], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "LISTED", 0)
    for source in sources[:2]:
        parts = [Subset(source, np.array(chosen)) for chosen in ([0, 1], [0, 2], [0, 1])]
        assert parts[0].digest == parts[2].digest
        assert len({part.digest for part in parts} | {source.digest}) == 3


def test_a_sketch_is_quick_and_tells_other_lists(sources: list[Source]):
    sketches = [ImageSet(source, Folder("").reading.training_crop(8)).sketch for source in sources]
    assert len(set(sketches)) == len(sources)
