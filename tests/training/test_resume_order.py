"""Runs go on in the order that they began with, also those of before there was more than one."""

import collections
import json

import pytest
from training.runs import note_keys, run_tiny, write_images

from imtok.data import source
from imtok.data.order import sampler
from imtok.errors import InputError
from imtok.files import sealed


@pytest.fixture
def keys(monkeypatch):
    """The names of the images that were trained on, in order."""
    return note_keys(monkeypatch)


@pytest.fixture
def as_of_a_billion(monkeypatch):
    """Calls of it: from now on as many images as there are count as many."""
    yield lambda: [monkeypatch.setattr(module, "LISTED", 0) for module in (sampler, source)]
    sampler.order_of.cache_clear()


def test_a_run_in_a_keyed_order_goes_on_in_it(tmp_path, keys, as_of_a_billion):
    images = write_images(tmp_path / "images", 18)
    given = ("data=folder", f"data.path={images}", f"data.val_path={write_images(tmp_path / 'held', 3)}")
    run_tiny(tmp_path / "listed", *given, "trainer.stop_at=5")
    listed = list(keys)
    keys.clear()
    as_of_a_billion()
    sampler.order_of.cache_clear()
    run_tiny(tmp_path / "run", *given, "trainer.stop_at=3")
    about = json.loads((tmp_path / "run/checkpoints/step_3/manifest.json").read_text())
    assert about["order"] == json.loads((tmp_path / "run/run.json").read_text())["order"] == "keyed"
    assert set(about["data"]) == {"images", "xxh3"}
    run_tiny(tmp_path / "run", *given, "ckpt=last", "trainer.stop_at=9")
    assert collections.Counter(keys[:18]) == collections.Counter(keys[18:36]) == dict.fromkeys(keys[:18], 1)
    assert len(set(keys[:18])) == 18
    assert keys[: len(listed)] != listed


def test_a_run_whose_checkpoint_says_nothing_goes_on_in_the_permutation(tmp_path, keys, as_of_a_billion):
    images = write_images(tmp_path / "images", 18)
    given = ("data=folder", f"data.path={images}", f"data.val_path={write_images(tmp_path / 'held', 3)}")
    run_tiny(tmp_path / "straight", *given, "trainer.stop_at=6")
    straight = list(keys)
    keys.clear()
    run_tiny(tmp_path / "run", *given, "trainer.stop_at=2")
    path = tmp_path / "run/checkpoints/step_2/manifest.json"
    about = json.loads(path.read_text())
    assert about.pop("order") == "keyed"
    del about["sha256"]
    path.write_text(json.dumps(sealed(about)))  # as a checkpoint of before
    as_of_a_billion()
    sampler.order_of.cache_clear()
    run_tiny(tmp_path / "run", *given, "ckpt=last", "trainer.stop_at=6")
    assert keys == straight
    after = json.loads((tmp_path / "run/checkpoints/step_6/manifest.json").read_text())
    assert after["order"] == "permuted"
    assert set(after["data"]) == {"images", "xxh3"}


def test_processes_that_read_other_images_end_the_run_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("imtok.training.run.gather_values", lambda value: [value, "12 images of another machine"])
    with pytest.raises(InputError, match=r"do not see the same training images; give all machines the same data\.path"):
        run_tiny(tmp_path / "run")
