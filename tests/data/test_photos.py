"""The bundled photographs: split by photograph, tiled exactly, fast."""

import time
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import get_type_hints

import pytest
import torch

from imtok.construct import arguments
from imtok.data.reading.reading import Reading, ReadingSettings
from imtok.data.sources import photos as module
from imtok.data.sources.photos import Photos
from imtok.errors import InputError
from imtok.options import option


def names(keys: list[str]) -> set[str]:
    return {key.split(".")[0] for key in keys}


def keys(images) -> list[str]:
    return [images.source.key(index) for index in range(len(images))]


def test_no_photograph_is_on_both_sides():
    photos = Photos()
    train, held_out = keys(photos.train(64, seed=0)), keys(photos.validation(64))
    assert names(held_out) == {"chelsea", "rocket", "flower"}
    assert len(names(train)) == 9
    assert not names(train) & names(held_out)
    assert names(keys(photos.evaluation(64, "train"))) == names(train)
    assert len(set(train)) == len(train)


@pytest.mark.usefixtures("every_tile")
@pytest.mark.parametrize(("size", "tiles"), [(32, 5385), (64, 1295), (128, 304), (256, 59)])
def test_all_photographs_have_the_known_number_of_tiles(size: int, tiles: int):
    images = Photos().evaluation(size, "all")
    assert len(images) == tiles
    assert len(set(keys(images))) == tiles


def test_tiles_do_not_overlap_and_show_native_pixels():
    images = Photos().validation(64)
    source = images.source
    covered = [torch.zeros(photo.shape[1:], dtype=torch.int64) for photo in source.photos]  # pyright: ignore
    for index, (photo, top, left) in enumerate(source.places):  # pyright: ignore
        covered[photo][top : top + 64, left : left + 64] += 1
        assert torch.equal(images[0, index].image, source.photos[photo][:, top : top + 64, left : left + 64])  # pyright: ignore
    assert max(int(cover.max()) for cover in covered) == 1


def test_a_tile_larger_than_a_photograph_still_gives_one():
    images = Photos().validation(512)
    assert names(keys(images)) == {"chelsea", "rocket", "flower"}
    assert {tuple(images[0, index].image.shape) for index in range(len(images))} == {(3, 512, 512)}  # pyright: ignore


def test_two_views_of_one_scene_are_held_out_together():
    with pytest.raises(ValueError, match="one scene"):
        Photos(held_out=["motorcycle_left"])
    assert len(Photos(held_out=["motorcycle_left", "motorcycle_right"]).validation(64)) == 154


@pytest.mark.parametrize("held_out", [["mona_lisa"], []])
def test_photographs_that_do_not_exist_are_refused(held_out: list[str]):
    with pytest.raises(ValueError, match="held_out must name"):
        Photos(held_out=held_out)


def test_a_missing_photograph_or_package_is_named(monkeypatch: pytest.MonkeyPatch):
    photos = Photos()
    monkeypatch.setattr(module, "PACKAGES", (("scikit-image", "skimage", "data", "absent.png"),))
    with pytest.raises(InputError, match=r"absent.png does not exist, so scikit-image came without"):
        photos.train(64, 0)
    monkeypatch.setattr(module, "PACKAGES", (("no-such-package", "no_such_package", "data", "absent.png"),))
    with pytest.raises(InputError, match="needs the package no-such-package"):
        photos.train(64, 0)


def test_the_digest_tells_another_split_apart():
    assert Photos().train(64, 0).digest == Photos().train(64, 1).digest
    assert Photos().train(64, 0).digest != Photos(held_out=["coffee"]).train(64, 0).digest
    assert Photos().validation(64).digest != Photos().validation(32).digest


def test_a_crop_takes_less_than_a_millisecond():
    images = Photos().train(64, seed=0)
    start = time.process_time()
    for index in range(500):
        images[0, index * 4]
    assert time.process_time() - start < 1.5 * 0.5  # with the shape checks of the test run; 0.6 ms without


OWN = {  # what makes them these data sets
    "fashion_mnist": ("places", "pad"),
    "mnist": ("places", "pad"),
    "photos": ("colours",),  # 0 is what runs had that know nothing of it
}


READING = {field.name: field.default for field in fields(Reading)}


def test_the_preset_holds_every_argument():
    configs = Path(__file__).parents[2] / "configs" / "data"
    for path in configs.glob("*.yaml"):
        config = option("data", path.stem)
        module_name, _, class_name = config.pop("_target_").rpartition(".")
        parameters = arguments(getattr(import_module(module_name), class_name))[0]
        assert sorted(config) == sorted(parameters), path
        for name, parameter in parameters.items():
            default = READING[name] if parameter.kind is parameter.KEYWORD_ONLY else parameter.default
            if default is not parameter.empty and name not in OWN.get(path.stem, ("path",)):
                assert config[name] == (list(default) if isinstance(default, tuple) else default), (path, name)


def test_the_settings_of_reading_are_typed_where_they_are_taken_by_keyword():
    assert get_type_hints(ReadingSettings) == get_type_hints(Reading)
