"""Stored features of captions: the bits of the tower, of one tower alone, without the tower."""

import json

import pytest
import torch
from conditions.towers import write_tower
from training.conditioned import PARTS
from training.runs import tiny_run, write_images

from imtok import cli
from imtok.conditions.base import Conditioner
from imtok.conditions.cache import AT_A_TIME, StoredFeatures, key_of, write_features
from imtok.conditions.given import ConditionConfig, give
from imtok.conditions.text import TextTower
from imtok.conditions.words import Words
from imtok.config import check_command
from imtok.errors import InputError
from imtok.training.run import train

CAPTIONS = ["a red fox", "two cats in the snow", "a blue circle", "two red cats"]
LABELS = torch.full((4,), -1)


def tower(folder, **settings):
    given = {"kind": "t5", "dim": 16, "length": 10, "repository": "a/b", "weights": str(folder)}
    return TextTower(**given | settings)


@pytest.fixture
def t5(tmp_path):
    return write_tower(tmp_path / "t5", "t5")


@pytest.fixture
def cache(t5, tmp_path):
    condition = tower(t5)
    condition.prepare()
    write_features(tmp_path / "text", [*CAPTIONS, "", "a red fox"], condition.rows, condition.about)
    return tmp_path / "text"


@pytest.mark.parametrize(("kind", "precision"), [("t5", "fp32"), ("t5", "bf16"), ("siglip", "fp32"), ("clip", "bf16")])
def test_stored_features_are_those_of_the_tower_to_the_last_bit(kind, precision, tmp_path):
    settings = {"kind": kind, "precision": precision}
    condition = tower(write_tower(tmp_path / kind, kind), **settings)
    condition.prepare()
    many = [f"a {word} fox {number}" for number in range(9) for word in ("red", "blue", "snow")]
    assert write_features(tmp_path / "text", many, condition.rows, condition.about) == 28
    stored = tower(tmp_path / "nowhere", cache=str(tmp_path / "text"), **settings)
    ordered = sorted([*many, Conditioner.example_caption], key=key_of)
    for first in range(0, 28, AT_A_TIME):
        some = ordered[first : first + AT_A_TIME]
        labels = torch.full((len(some),), -1)
        expected, made = condition(some, labels), stored(some, labels)
        assert torch.equal(made.text, expected.text)
        assert torch.equal(made.mask, expected.mask)
    assert stored.stored == condition.stored | {"cache": None}
    assert not stored(["", " "], LABELS[:2]).mask.any()


def test_a_caption_that_is_not_stored_is_read_by_the_tower(cache, t5):
    both = tower(t5, cache=str(cache))
    made = both(["the snow", "a red fox", ""], LABELS[:3])
    torch.testing.assert_close(made.text[:2], tower(t5)(["the snow", "a red fox"], LABELS[:2]).text)
    assert made.mask.any(1).tolist() == [True, True, False]
    with pytest.raises(InputError, match="nowhere is not a folder"):
        tower("nowhere", cache=str(cache))(["the snow"], LABELS[:1])


def test_features_of_another_tower_length_or_precision_are_refused(cache, tmp_path):
    other = tower(write_tower(tmp_path / "other", "t5", seed=1))
    other.prepare()
    for settings, reason in (
        ({"sha256": other.sha256}, "is of another text tower: its sha256 must begin with"),
        ({"length": 9}, r"was made with condition\.length=10, not 9; pack the captions again"),
        ({"precision": "bf16"}, r"was made with condition\.precision=fp32, not bf16"),
        ({"cache": str(tmp_path)}, "holds no text features; give a folder that imtok pack wrote"),
    ):
        with pytest.raises(InputError, match=reason):
            tower("nowhere", **{"cache": str(cache)} | settings).prepare()
    with pytest.raises(InputError, match="already holds something else"):
        write_features(cache, CAPTIONS, other.rows, other.about)


def test_a_folder_that_was_altered_is_refused(cache):
    whole = {path: path.read_bytes() for path in cache.iterdir()}
    for path, data in whole.items():
        path.write_bytes(data[: len(data) // 2])
        with pytest.raises(InputError, match=r"altered|was cut|holds no text features|JSON"):
            StoredFeatures(cache)
        path.write_bytes(data)
    StoredFeatures(cache)


def test_a_folder_that_is_there_is_left_as_it_is(cache, t5):
    before = {path: path.stat().st_mtime_ns for path in cache.iterdir()}
    condition = tower(t5)
    condition.prepare()
    assert write_features(cache, CAPTIONS, None, condition.about) == 5
    assert {path: path.stat().st_mtime_ns for path in cache.iterdir()} == before


def test_a_finished_tokenizer_is_told_stored_features_without_its_tower(cache, t5):
    condition = tower(t5)
    condition.prepare()
    finished = tower("nowhere", sha256=condition.sha256)
    given = give(finished, {"text"}, ConditionConfig(cache=str(cache)))
    assert torch.equal(given(CAPTIONS, LABELS).text, condition(CAPTIONS, LABELS).text)
    for other in (None, Words(dim=16)):
        with pytest.raises(InputError, match="this tokenizer names no text tower"):
            give(other, {"text"}, ConditionConfig(cache=str(cache)))


SIZES = ("condition.dim=16", "condition.length=10")


def test_a_pack_holds_them_and_a_run_needs_no_tower(t5, tmp_path, monkeypatch, capsys):
    images = write_images(tmp_path / "images", 12)
    for number, path in enumerate(sorted(images.rglob("*.png"))):
        path.with_suffix(".txt").write_text(CAPTIONS[number % 4])
    words = ["data=folder", f"data.path={images}", f"out={tmp_path}/pack", "cache=[text]", "condition=t5_xl", *SIZES]
    monkeypatch.setattr("sys.argv", ["imtok", "pack", *words, f"condition.weights={t5}"])
    cli.main()
    cache = tmp_path / "pack/text"
    assert f"5 in {cache}; train with condition.cache={cache}" in capsys.readouterr().out
    run = tiny_run(
        tmp_path / "run", *PARTS, "condition=t5_xl", *SIZES, "decoder.context_dim=16", "decoder.context_length=10",
        f"condition.cache={cache}", "data=webdataset", f"data.path={tmp_path}/pack", "data.val_fraction=0.3",
        "trainer.max_steps=2", "trainer.pictures_every=2",
    )  # fmt: skip
    train(run)
    section = json.loads((tmp_path / "run/tokenizer/config.json").read_text())["condition"]
    assert (section["cache"], section["weights"]) == (None, None)
    assert section["sha256"] == json.loads((cache / "features.json").read_text())["tower"]
    assert run.tokenizer.condition._kept.net is None


def test_a_cache_wants_a_tower_and_a_tower_a_cache():
    for words in (["cache=[text]"], ["condition=t5_xl"]):
        with pytest.raises(InputError, match=r"cache=\[text\] needs the tower: condition=t5_xl"):
            check_command("pack", ["data.path=a", "out=b", *words])
    with pytest.raises(InputError, match=r"cache=\[text\] needs the tower|cache=\[space\] needs the net"):
        check_command("pack", ["data.path=a", "out=b", "cache=[space]", "condition=t5_xl"])
