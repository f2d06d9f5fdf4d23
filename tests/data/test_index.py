"""The stored index: any changed byte is found, and an index of other data is refused by name."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from imtok.data.archives import index as module
from imtok.data.order.loader import evaluation_loader
from imtok.data.sources.collection import Collection
from imtok.data.sources.folder import Folder
from imtok.data.sources.webdataset import WebDataset
from imtok.errors import InputError

Write = Callable[[Path, list[tuple[str, bytes]]], Path]


@pytest.fixture
def shards(tmp_path: Path, folder: Path, write_shard: Write) -> Path:
    (tmp_path / "shards").mkdir()
    files = sorted(folder.rglob("*.png"))
    for shard in range(3):
        samples = [((path.name, path.read_bytes()), (f"{path.stem}.cls", b"%d" % shard)) for path in files[shard::3]]
        write_shard(tmp_path / "shards" / f"{shard}.tar", [member for sample in samples for member in sample])
    return tmp_path / "shards"


@pytest.fixture(params=["folder", "shards"])
def opened(request: pytest.FixtureRequest, folder: Path, shards: Path, tmp_path: Path) -> Callable[..., Collection]:
    """Opens the same 23 images, in files or in shards, with an index."""
    kind, path = (Folder, folder) if request.param == "folder" else (WebDataset, shards)
    return lambda moved=None: kind(moved or path, index=tmp_path / "index.safetensors")


def test_an_index_changes_nothing_but_is_read_from_then_on(opened: Callable[..., Collection], tmp_path: Path):
    first = opened().evaluation(8).source
    written = (tmp_path / "index.safetensors").read_bytes()
    again = opened().evaluation(8).source
    plain = type(opened())(opened().path).evaluation(8).source
    for source in (first, again):
        assert source.digest == plain.digest
        assert source.classes == plain.classes
        for place in range(23):
            assert (source.key(place), source.label(place)) == (plain.key(place), plain.label(place))
            assert source.image(place).equal(plain.image(place))
    assert (tmp_path / "index.safetensors").read_bytes() == written
    assert [path.name for path in tmp_path.glob(".*")] == []
    assert plain.content_hashes is None


@pytest.mark.parametrize("kind", ["folder", "shards"])
def test_200_of_200_flipped_bits_are_found(kind: str, folder: Path, shards: Path, tmp_path: Path):
    random = np.random.default_rng(0)
    index = tmp_path / "index"
    data = Folder(folder, index=index) if kind == "folder" else WebDataset(shards, index=index)
    source = data.evaluation(8).source
    for _ in range(200):
        place = int(random.integers(23))
        if kind == "folder":
            path, start = folder / source.key(place), 0
        else:
            path, start = shards / source.key(place).split(":")[0], int(source.offsets[place])  # pyright: ignore
        whole = path.read_bytes()
        at = start + int(random.integers(int(source.sizes[place])))  # pyright: ignore
        damaged = bytearray(whole)
        damaged[at] ^= 1 << int(random.integers(8))
        path.write_bytes(damaged)
        # no new listing: damage that comes while a run goes on is found as well
        assert data.evaluation(8)[0, place].bad == (f"{source.key(place)}: does not have the content of the index",)
        path.write_bytes(whole)
    assert all(data.evaluation(8)[0, place].bad == () for place in range(23))


def test_a_changed_image_is_replaced_in_training_and_named_in_evaluation(folder: Path, tmp_path: Path):
    Folder(folder, index=tmp_path / "index").train(8, 0)
    original, other = (folder / "a" / "00.png", folder / "a" / "03.png")
    other.write_bytes(original.read_bytes().ljust(other.stat().st_size, b"\0")[: other.stat().st_size])
    data = Folder(folder, index=tmp_path / "index")
    bad = [reason for batch in evaluation_loader(data.evaluation(8), 5) for reason in batch.bad]
    assert bad == ["a/03.png: does not have the content of the index"]
    images = data.train(8, 0)
    place = next(i for i in range(len(images)) if images.source.key(i) == "a/03.png")
    sample = images[0, place]
    assert sample.bad == tuple(bad)
    assert sample.image is not None


def test_the_index_of_a_moved_data_set_fits(opened: Callable[..., Collection], tmp_path: Path):
    old = Path(opened().path)
    before = opened().evaluation(8)
    digest = before.digest
    new = old.rename(tmp_path / "elsewhere")
    after = opened(new).evaluation(8)
    assert after.digest == digest
    assert all(after[0, place].bad == () for place in range(23))


def test_the_headers_of_indexed_shards_are_not_read_again(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    WebDataset(shards, index=tmp_path / "index").evaluation(8)
    monkeypatch.setattr("imtok.data.archives.shards.index_shard", None)
    assert len(WebDataset(shards, index=tmp_path / "index").evaluation(8)) == 23


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "removed": (
        lambda f: (f / "b" / "01.png").unlink(),
        r"file b/01.png is in the index and .* \(23 files then, 22 now",
    ),
    "added": (lambda f: (f / "b" / "011.png").write_bytes(b"x"), r"file b/011.png is not in the index \(23 .*, 24 now"),
    "renamed": (lambda f: (f / "b" / "01.png").rename(f / "b" / "0.png"), r"file b/0.png is not in the index"),
    "grown": (lambda f: (f / "b" / "01.png").write_bytes(b"x" * 9), r"file b/01.png has 9 bytes, and \d+ in the index"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_stale_index_of_files_is_refused_with_the_first_difference(change: str, folder: Path, tmp_path: Path):
    Folder(folder, index=tmp_path / "index").evaluation(8)
    action, reason = CHANGES[change]
    action(folder)
    with pytest.raises(InputError, match=f"not of this data: {reason}.*; bring the data back, or delete the index"):
        Folder(folder, index=tmp_path / "index").evaluation(8)


def test_a_stale_index_of_shards_is_refused_with_the_first_difference(shards: Path, tmp_path: Path):
    def reopen() -> None:
        WebDataset(shards, index=tmp_path / "index").evaluation(8)

    reopen()
    whole = (shards / "1.tar").read_bytes()
    (shards / "1.tar").write_bytes(whole + bytes(512))
    with pytest.raises(InputError, match=rf"shard 1.tar has {len(whole) + 512} bytes, and {len(whole)} in the index"):
        reopen()
    (shards / "1.tar").unlink()
    with pytest.raises(InputError, match=r"shard 1.tar is in the index and no longer there \(3 shards then, 2 now"):
        reopen()


def test_every_damage_of_the_index_itself_is_found(folder: Path, tmp_path: Path):
    index = tmp_path / "index"
    Folder(folder, index=index).evaluation(8)
    whole = index.read_bytes()
    random = np.random.default_rng(0)
    for at in random.integers(len(whole), size=100).tolist():
        index.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        with pytest.raises(InputError, match=r"index"):
            Folder(folder, index=index).evaluation(8)
    for damaged in (b"", b"<html>", whole[:50], whole[:-1]):
        index.write_bytes(damaged)
        with pytest.raises(InputError, match=r"index.* cannot be read"):
            Folder(folder, index=index).evaluation(8)


def test_an_index_of_another_kind_is_refused(folder: Path, shards: Path, tmp_path: Path):
    Folder(folder, index=tmp_path / "index").evaluation(8)
    with pytest.raises(InputError, match="is of files, not of shards"):
        WebDataset(shards, index=tmp_path / "index").evaluation(8)


def test_an_index_that_cannot_be_written_is_refused_before_anything_is_hashed(folder: Path, tmp_path: Path):
    with pytest.raises(InputError, match="absent is not a folder; make it first"):
        Folder(folder, index=tmp_path / "absent" / "index").evaluation(8)


def test_a_file_that_could_not_be_read_stays_a_bad_image(folder: Path, tmp_path: Path):
    (folder / "a" / "nothing.png").symlink_to(tmp_path / "absent.png")
    data = Folder(folder, index=tmp_path / "index")
    bad = [reason for batch in evaluation_loader(data.evaluation(8), 30) for reason in batch.bad]
    assert bad == ["a/nothing.png: No such file or directory"]


def test_held_out_images_of_another_path_have_an_index_of_their_own(folder: Path, tmp_path: Path, picture: Callable):
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "1.png").write_bytes(picture(1))
    data = Folder(folder, val_path=tmp_path / "val", index=tmp_path / "my.index")
    assert data.validation(8)[0, 0].bad == ()
    assert sorted(path.name for path in tmp_path.glob("my*")) == ["my.index", "my.val.index"]
    (tmp_path / "val" / "1.png").write_bytes(picture(2).ljust(2000, b"\0")[: len(picture(1))])
    assert data.validation(8)[0, 0].bad == ("1.png: does not have the content of the index",)


def test_a_long_pass_tells_how_far_it_is(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    monkeypatch.setattr(module, "AT_A_TIME", 10)
    with caplog.at_level(logging.INFO):
        Folder(folder, index=tmp_path / "index").evaluation(8)
    lines = [record.getMessage() for record in caplog.records]
    assert [line.split(",")[0] for line in lines[:3]] == [
        f"hashing images for the index: {done} of 23" for done in (10, 20, 23)
    ]
