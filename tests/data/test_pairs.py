"""Pairs: each target meets its own source, whatever it is, and what does not fit is named."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from imtok.data.order.loader import train_loader
from imtok.data.order.sampler import TrainBatches
from imtok.data.sources.folder import Folder
from imtok.data.sources.pairs import Pairs, PairSet
from imtok.errors import InputError
from imtok.export.feed import ListFeed
from imtok.export.tokens import export_tokens
from imtok.tokenizer import Tokenizer


def write_rows(folder: Path, kind: str, array: np.ndarray, keys: list[str], number: int = 0) -> None:
    folder.mkdir(exist_ok=True)
    np.save(folder / f"{kind}-{number:05d}.npy", array)
    (folder / f"keys-{number:05d}.json").write_text(json.dumps(keys))


def keys_of(folder: Path) -> list[str]:
    source = Folder(folder).evaluation(8).source
    return [source.key(index) for index in range(len(source))]


def batches(images: PairSet, workers: int = 0) -> list:
    order = TrainBatches(len(images), seed=0, global_batch=4, total_steps=4)
    return list(train_loader(images, order, workers))


@pytest.mark.parametrize("workers", [0, 2])
def test_ids_reach_the_image_that_they_belong_to(folder: Path, tmp_path: Path, workers: int):
    """Rows lie in another order than the images, in two shards; each row holds the number of its name."""
    keys = keys_of(folder)
    rows = np.arange(len(keys), dtype=np.uint16)[:, None, None] * np.ones((1, 6, 2), dtype=np.uint16)
    order = np.random.default_rng(0).permutation(len(keys))
    for number, part in enumerate(np.array_split(order, 2)):
        write_rows(tmp_path / "ids", "ids", rows[part], [keys[index] for index in part], number)
    images = Pairs(Folder(folder), tmp_path / "ids").train(16, 0)
    plain = Folder(folder).evaluation(16)
    for batch in batches(images, workers):
        assert batch.source.dtype == torch.int64
        assert batch.source.shape == (4, 6, 2)
        for image, source, key in zip(batch.image, batch.source, batch.key, strict=True):
            number = keys.index(key)
            assert (source == number).all()
            assert torch.equal(image, plain[0, number].image), "cut as for evaluation, and never mirrored"


def test_latents_come_as_float32(folder: Path, tmp_path: Path):
    keys = keys_of(folder)
    rows = np.random.default_rng(0).normal(size=(len(keys), 4, 3)).astype(np.float16)
    write_rows(tmp_path / "latents", "latents", rows, keys)
    batch = batches(Pairs(Folder(folder), tmp_path / "latents", kind="latents").train(16, 0))[0]
    assert batch.source.dtype == torch.float32
    for source, key in zip(batch.source, batch.key, strict=True):
        assert torch.equal(source, torch.from_numpy(rows[keys.index(key)].astype(np.float32)))


@pytest.mark.parametrize("flip", [False, True])
def test_pictures_meet_by_name_whatever_the_suffix_and_are_mirrored_together(folder: Path, tmp_path: Path, flip: bool):
    for key in keys_of(folder):
        path = (tmp_path / "pictures" / key).with_suffix(".webp.PNG")
        path = path.with_name(path.name.replace(".webp.PNG", ".PNG"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((folder / key).read_bytes())  # the type is told by content
    images = Pairs(Folder(folder), tmp_path / "pictures", kind="pictures", flip=flip).train(16, 0)
    plain, mirrored = Folder(folder).evaluation(16), 0
    keys = keys_of(folder)
    for batch in batches(images):
        assert torch.equal(batch.image, batch.source)
        for image, key in zip(batch.image, batch.key, strict=True):
            mirrored += not torch.equal(image, plain[0, keys.index(key)].image)
    assert (0 < mirrored < 16) == flip


def test_what_imtok_export_wrote_is_read(folder: Path, tmp_path: Path):
    """Decoding the sources gives the reconstructions."""
    parts = {
        "encoder": {"_target_": "imtok.encoders.patch.PatchEncoder", "patch_size": 8, "width": 8, "depth": 0},
        "quantizer": {"_target_": "imtok.quantizers.fsq.FSQ", "levels": [8, 5, 5]},
        "decoder": {"_target_": "imtok.decoders.patch.PatchDecoder", "patch_size": 8, "width": 8, "depth": 0},
    }
    tokenizer, data = Tokenizer.from_config(parts).eval(), Folder(folder)
    export_tokens(tokenizer, ListFeed(data.evaluation(16), shard_size=5), tmp_path / "tokens")
    for batch in batches(Pairs(data, tmp_path / "tokens").train(16, 0)):
        assert torch.equal(tokenizer.quantize(batch.image.float() / 127.5 - 1).ids, batch.source)


def test_targets_without_a_source_are_left_out_and_the_held_out_part_stays_out(folder: Path, tmp_path: Path):
    keys = keys_of(folder)
    write_rows(tmp_path / "ids", "ids", np.zeros((7, 4, 1), dtype=np.int64), [*keys[:6], "not/among/them.png"])
    data = Pairs(Folder(folder, val_fraction=0.3), tmp_path / "ids")
    images = data.train(16, 0)
    trained = {images.source.key(index) for index in range(len(images))}
    held_out = data.validation(16)
    out = {held_out.source.key(index) for index in range(len(held_out))}
    assert trained == set(keys[:6]) - out
    assert len(data.evaluation(16)) == len(keys)


def test_a_replaced_source_is_another_run(folder: Path, tmp_path: Path):
    keys, digests = keys_of(folder), set()
    for value in (0, 0, 1):
        rows = np.zeros((len(keys), 4, 1), dtype=np.int64)
        rows[3] = value
        write_rows(tmp_path / "ids", "ids", rows, keys)
        digests.add(Pairs(Folder(folder, val_fraction=0.01), tmp_path / "ids").train(16, 0).digest)
    assert len(digests) == 2


def test_a_damaged_target_is_replaced_by_another_pair(folder: Path, tmp_path: Path):
    keys = keys_of(folder)
    rows = np.arange(len(keys))[:, None, None] * np.ones((1, 2, 1), dtype=np.int64)
    write_rows(tmp_path / "ids", "ids", rows, keys)
    images = Pairs(Folder(folder), tmp_path / "ids").train(16, 0)
    damaged = images.source.key(0)
    (folder / damaged).write_bytes(b"\xff\xd8 not much of an image")
    sample = images[0, 0]
    assert sample.bad
    assert sample.key != damaged
    assert (sample.source == keys.index(sample.key)).all(), "the source is that of the image that is shown"


def test_a_damaged_source_stops_the_run_with_its_name(folder: Path, tmp_path: Path, picture: Callable[[int], bytes]):
    for seed, key in enumerate(keys_of(folder)):
        path = tmp_path / "pictures" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(seed)[:90])
    images = Pairs(Folder(folder), tmp_path / "pictures", kind="pictures").train(16, 0)
    with pytest.raises(InputError, match=r"data.sources: .*write it again"):
        batches(images)


def shards(keys: list[str], folder: Path) -> dict[str, Callable[[], None]]:
    rows = np.zeros((len(keys), 4, 1), dtype=np.int64)
    return {
        "holds no ids-00000.npy": lambda: folder.mkdir(),
        "no target has a source": lambda: write_rows(folder, "ids", rows[:1], ["x/y.png"]),
        "must hold ids of": lambda: write_rows(folder, "ids", rows[:-1], keys),
        "float32 of shape": lambda: write_rows(folder, "ids", rows.astype(np.float32), keys),
        "does not exist": lambda: (write_rows(folder, "ids", rows, keys), (folder / "keys-00000.json").unlink()),
        "list of texts": lambda: (write_rows(folder, "ids", rows, keys), (folder / "keys-00000.json").write_text("3")),
        "is not an .npy file": lambda: (
            write_rows(folder, "ids", rows, keys),
            (folder / "ids-00000.npy").write_bytes(b"no"),
        ),
        "variable length": lambda: (write_rows(folder, "ids", rows, keys), np.save(folder / "keep-00000.npy", rows)),
        "shape of the first one": lambda: (
            write_rows(folder, "ids", rows, keys),
            write_rows(folder, "ids", rows[:, :2], keys, 1),
        ),
    }


@pytest.mark.parametrize("said", shards([], Path()))
def test_sources_that_do_not_fit_are_named_in_one_line(said: str, folder: Path, tmp_path: Path):
    shards(keys_of(folder), tmp_path / "ids")[said]()
    with pytest.raises(InputError, match=said) as caught:
        Pairs(Folder(folder), tmp_path / "ids").train(16, 0)
    assert "\n" not in str(caught.value)


def test_ids_cannot_be_mirrored(tmp_path: Path):
    with pytest.raises(ValueError, match="flip must be false"):
        Pairs(Folder(tmp_path), tmp_path, flip=True)


def test_targets_without_a_source_are_counted(folder: Path, tmp_path: Path):
    keys = keys_of(folder)
    write_rows(tmp_path / "ids", "ids", np.zeros((len(keys), 6, 2), dtype=np.uint16), keys)
    whole = Pairs(Folder(folder, val_fraction=0.01), tmp_path / "ids").train(16, 0)
    assert whole.remarks == ()
    write_rows(tmp_path / "ids", "ids", np.zeros((5, 6, 2), dtype=np.uint16), keys[:5])
    some = Pairs(Folder(folder, val_fraction=0.01), tmp_path / "ids").train(16, 0)
    count = len(whole) - len(some)
    assert some.remarks == (f"{count} of {len(whole)} targets have no source in data.sources, and are left out",)
