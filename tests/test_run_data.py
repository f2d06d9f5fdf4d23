"""Where no data is given, a run's own is taken and said, and the commands that are printed bring it along."""

import json
import shlex
import sys
import types
from pathlib import Path

import pytest
import yaml
from export.stores import tokenizer_of
from omegaconf import OmegaConf
from training.runs import write_images

from imtok.cli import main
from imtok.data.sources.folder import Folder
from imtok.errors import InputError
from imtok.run_data import data_words, take_data

FOLDER = {
    "_target_": "imtok.data.sources.folder.Folder", "path": "images", "val_path": None, "val_fraction": 0.5,
    "flip": True, "scale": [0.8, 1.0], "crop": "square", "decode": "exact", "max_pixels": 64000000,
    "background": [255, 255, 255], "index": None,
}  # fmt: skip
PHOTOS = {
    "_target_": "imtok.data.sources.photos.Photos", "held_out": ["chelsea", "rocket", "flower"], "crops_per_photo": 256,
    "scale": [0.0, 0.2], "flip": True, "colours": 1.0,
}  # fmt: skip


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with images and a tokenizer, and a function that makes a run of it."""
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "images", 8)
    tokenizer_of("one slot").save(tmp_path / "alone")

    def run(name, section):
        tokenizer_of("one slot").save(tmp_path / name / "tokenizer")
        (tmp_path / name / "config.yaml").write_text(yaml.safe_dump({"data": section}))
        (tmp_path / name / "run.json").write_text("{}")
        return name

    return run


def given(data=None, split=None):
    return OmegaConf.create({"data": data, "split": split})


def test_data_of_the_run_is_taken_and_said(here):
    here("run", FOLDER)
    for source in ("run", "run/tokenizer"):
        config = given()
        said = take_data(config, [source], split="val")
        assert said == "data of the run: data=folder data.path=images data.val_fraction=0.5, split=val"
        assert (config.data, config.split) == (FOLDER, "val")
    assert take_data(given(split="all"), ["run"], split="val").endswith("split=all")
    assert take_data(given(), ["run"]).endswith("data.val_fraction=0.5, the default split")


def test_data_that_is_given_wins_and_a_tokenizer_alone_takes_the_photographs(here):
    here("run", FOLDER)
    config = given(PHOTOS)
    assert take_data(config, ["run"], split="val") == "data: data=photos, the default split"
    assert (config.data, config.split) == (PHOTOS, None)
    config = given()
    assert take_data(config, ["alone"]).endswith("since alone has no training run to take data from")
    assert config.data == PHOTOS


def test_runs_on_different_data_are_not_mixed(here):
    here("a", FOLDER)
    here("b", {**FOLDER, "val_fraction": 0.25})
    with pytest.raises(InputError, match="data must be given: a and b were trained on different images; give data="):
        take_data(given(), ["a", "b"])


@pytest.mark.parametrize(
    ("section", "reason"),
    [
        ({**FOLDER, "_target_": "os.system"}, r"run/config\.yaml: data\._target_ must be a class of imtok in a stored"),
        (
            {**FOLDER, "opener": {"_target_": "mine.Vault"}},
            r"data\.opener\._target_ must be a class of imtok .* IMTOK_",
        ),
        (
            {**FOLDER, "path": "imagse"},
            r"data\.path=imagse no longer exists, seen from .* \(there is images\); give",
        ),
        ({**FOLDER, "val_path": "/gone/x"}, r"data\.val_path=/gone/x no longer exists; give data=folder"),
        ("photos", r"run/config\.yaml does not say what the run was trained on; give data=folder"),
    ],
)
def test_data_of_a_run_that_cannot_be_used_is_one_line_with_the_fix(here, section, reason):
    here("run", section)
    with pytest.raises(InputError, match=reason) as error:
        take_data(given(), ["run"])
    assert "\n" not in str(error.value)


def test_a_run_without_its_config_is_still_a_run(here):
    """It was measured on the bundled photographs, as if it were a tokenizer alone."""
    run = Path(here("run", FOLDER))
    (run / "config.yaml").unlink()
    with pytest.raises(InputError, match=r"run/run\.json does not say what the run was trained on; give data=folder"):
        take_data(given(), ["run"])
    (run / "run.json").write_text(json.dumps({"config": {"data": FOLDER}}))
    config = given()
    assert take_data(config, ["run"], split="val").startswith("data of the run: data=folder data.path=images ")
    assert config.data == FOLDER
    for damaged in ("", "data: [", "\x00", "- a", "data: photos", "data: {path: images}"):
        (run / "config.yaml").write_text(damaged)
        with pytest.raises(InputError, match=r"^run/config\.yaml does not say what the run was trained on; give data="):
            take_data(given(), ["run"])


def test_a_package_that_is_trusted_may_be_named(here, monkeypatch):
    class Pictures(Folder):
        pass

    Pictures.__module__ = "mine"
    monkeypatch.setitem(sys.modules, "mine", types.SimpleNamespace(Pictures=Pictures))
    monkeypatch.setenv("IMTOK_PACKAGES", "mine")
    here("run", {**FOLDER, "_target_": "mine.Pictures"})
    config = given()
    take_data(config, ["run"])
    assert config.data["_target_"] == "mine.Pictures"


def test_every_kind_of_data_has_its_words():
    assert data_words(PHOTOS) == ["data=photos"]
    assert data_words({**FOLDER, "path": "my photos", "flip": False}) == [
        "data=folder",
        "data.path='my photos'",
        "data.val_fraction=0.5",
        "data.flip=false",
    ]
    assert data_words({"_target_": "mine.Data"}) is None


def test_eval_and_export_of_a_run_read_its_data(here, capsys, monkeypatch):
    here("run", FOLDER)
    for command, images in (("eval", 4), ("export", 8)):  # half of the images are held out
        words = shlex.split(f"imtok {command} tokenizer=run out={command} device=cpu threads=1")
        monkeypatch.setattr(sys, "argv", words)
        main()
        assert "data of the run: data=folder data.path=images" in capsys.readouterr().out
        file = {"eval": "report.json", "export": "manifest.json"}[command]
        assert 0 < json.loads(Path(command, file).read_text())["images"] <= images
