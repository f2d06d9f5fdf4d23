"""Mixtures: the rates that were asked for, every image of a part equally often, and nobody's name lost."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from imtok.build import build_part
from imtok.data.images import ImageSet
from imtok.data.order.loader import train_loader
from imtok.data.order.sampler import TrainBatches, stream
from imtok.data.sources.folder import Folder
from imtok.data.sources.mixture import Mixture
from imtok.data.sources.webdataset import WebDataset
from imtok.errors import InputError

COUNTS = {"one": 7, "two": 23, "three": 4}
WEIGHTS = {"one": 2.0, "two": 1.0, "three": 3.0}


@pytest.fixture
def parts(tmp_path: Path, picture: Callable[[int], bytes]) -> dict[str, Folder]:
    (tmp_path / "held").mkdir()
    (tmp_path / "held/0.png").write_bytes(picture(1000))
    for number, (name, count) in enumerate(COUNTS.items()):
        for index in range(count):
            path = tmp_path / name / "ab"[index % 2] / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(100 * number + index))
    # held out of a part is another folder, so that all images of path are trained on
    return {name: Folder(tmp_path / name, val_path=tmp_path / "held") for name in COUNTS}


def trained(parts: dict[str, Folder], seed: int = 0) -> ImageSet:
    return Mixture(parts, WEIGHTS).train(8, seed)


def test_parts_are_drawn_at_their_rates_and_their_images_equally_often(parts: dict[str, Folder]):
    images = trained(parts)
    epochs = 12
    keys = Counter(images[place].key for place in stream(len(images), 0, 0, epochs * len(images)))
    by_part = {name: [count for key, count in keys.items() if key.startswith(f"{name}/")] for name in COUNTS}
    total = sum(keys.values())
    for name, counts in by_part.items():
        assert len(counts) == COUNTS[name]
        assert sum(counts) / total == pytest.approx(WEIGHTS[name] / 6, abs=0.01)
        assert max(counts) - min(counts) <= 1


def test_every_image_is_seen_in_the_first_epoch(parts: dict[str, Folder]):
    images = trained(parts)
    keys = {images[place].key for place in stream(len(images), 0, 0, len(images))}
    assert len(keys) == sum(COUNTS.values())


def test_repeated_images_have_other_crops(tmp_path: Path):
    from PIL import Image

    for name, side in (("a", 8), ("b", 64)):
        (tmp_path / name).mkdir()
        pixels = torch.randint(0, 256, (side, side, 3), dtype=torch.uint8).numpy()
        Image.fromarray(pixels).save(tmp_path / name / "1.png")
    for index in range(2, 21):
        (tmp_path / "a" / f"{index}.png").write_bytes((tmp_path / "a" / "1.png").read_bytes())
    parts = {name: Folder(tmp_path / name, scale=(0.1, 1.0)) for name in "ab"}
    images = Mixture(parts, {"a": 1.0, "b": 1.0}).train(8, 0)
    shown = [images[0, at] for at in range(len(images))]
    crops = [sample.image.numpy().tobytes() for sample in shown if sample.key.startswith("b/")]
    assert len(crops) > 15
    assert len(set(crops)) == len(crops)


def test_a_resumed_mixture_shows_what_the_whole_run_showed(parts: dict[str, Folder]):
    def batches(start: int, workers: int = 0) -> list:
        images = trained(parts)
        order = TrainBatches(len(images), 0, 8, start_step=start, total_steps=12)
        return list(train_loader(images, order, workers))

    whole, rest = batches(0), batches(5, workers=1)
    for ours, theirs in zip(whole[5:], rest, strict=True):
        assert ours.key == theirs.key
        assert torch.equal(ours.image, theirs.image)


def test_classes_that_are_named_alike_stay_and_others_are_told_apart(parts: dict[str, Folder], tmp_path: Path):
    same = Mixture(parts, WEIGHTS).evaluation(8)
    assert same.source.classes == ["a", "b"]
    (tmp_path / "three" / "c").mkdir()
    (tmp_path / "three" / "a" / "0.png").rename(tmp_path / "three" / "c" / "0.png")
    images = Mixture({name: Folder(tmp_path / name) for name in COUNTS}, WEIGHTS).evaluation(8)
    assert images.source.classes == ["one/a", "one/b", "two/a", "two/b", "three/a", "three/b", "three/c"]
    for at in range(len(images)):
        sample = images[0, at]
        assert images.source.classes[sample.label] == sample.key.rpartition("/")[0]


def test_evaluation_shows_each_image_of_each_part_once(parts: dict[str, Folder]):
    images = Mixture(parts, WEIGHTS).evaluation(8)
    keys = [images[0, at].key for at in range(len(images))]
    assert len(set(keys)) == len(keys) == sum(COUNTS.values())


def test_a_bad_image_is_named_with_its_part_and_replaced_from_it(parts: dict[str, Folder], tmp_path: Path):
    (tmp_path / "three" / "a" / "0.png").write_bytes(b"")
    images = trained(parts)
    shown = [images[0, at] for at in range(len(images))]
    bad = [sample for sample in shown if sample.bad]
    assert bad
    assert all(sample.bad[0] == "three/a/0.png: is empty" and sample.key.startswith("three/") for sample in bad)


def test_another_seed_or_rate_is_another_run(parts: dict[str, Folder]):
    one, other = trained(parts), Mixture(parts, {**WEIGHTS, "one": 2.5}).train(8, 0)
    assert one.about != other.about
    assert one.about == Mixture(parts, {name: 10 * weight for name, weight in WEIGHTS.items()}).train(8, 0).about


@pytest.mark.parametrize("weights", [{}, {"one": 1.0}, {**WEIGHTS, "four": 1.0}, {**WEIGHTS, "one": 0.0}])
def test_weights_must_be_positive_and_of_the_parts(weights: dict[str, float], parts: dict[str, Folder]):
    with pytest.raises(ValueError, match="weights must"):
        Mixture(parts, weights)


def test_remote_shards_are_refused_by_name(parts: dict[str, Folder]):
    mixed = Mixture({**parts, "far": WebDataset("memory://set/{0..3}.tar")}, {**WEIGHTS, "far": 1.0})
    with pytest.raises(InputError, match=r"data\.parts\.far is a stream"):
        mixed.train(8, 0)


def test_a_config_builds_its_parts(parts: dict[str, Folder], tmp_path: Path):
    nodes = {name: {"_target_": "imtok.data.sources.folder.Folder", "path": str(tmp_path / name)} for name in COUNTS}
    plain = {"data": {"_target_": "imtok.data.sources.mixture.Mixture", "parts": nodes, "weights": WEIGHTS}}
    assert len(build_part(plain, "data").evaluation(8)) == sum(COUNTS.values())


def test_a_part_whose_classes_have_no_names_is_said_to_have_none(
    folder: Path, tmp_path: Path, write_shard: Callable, picture: Callable[[int], bytes]
):
    shard = write_shard(tmp_path / "0.tar", [("1.png", picture(1)), ("1.cls", b"3"), ("2.png", picture(2))])
    plain = write_shard(tmp_path / "1.tar", [("1.png", picture(3))])
    parts = {"some": Folder(folder), "more": WebDataset(shard), "bare": WebDataset(plain)}
    (said,) = [
        said for said in Mixture(parts, dict.fromkeys(parts, 1.0)).evaluation(8).remarks if "have no names" in said
    ]
    assert said.startswith("the classes of more have no names, so its images have no class beside others; name them")
