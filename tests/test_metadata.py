"""Keys of one's own stand in config.json; those that the tokenizer is built from are sealed."""

import json

import pytest
from export.stores import tokenizer_of

from imtok import InputError, Tokenizer
from imtok.locate import CONFIG

OWN = {
    "license": "mit",
    "tags": ["cats", "imtok"],
    "library_name": "imtok",
    "_name_or_path": None,
    "more": {"a": [1, 2.5]},
}


@pytest.fixture
def saved(tmp_path):
    tokenizer_of("one slot").save(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


def edit(folder, **changes):
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**changes, **config} | changes))


def test_keys_of_ones_own_are_kept_by_load_and_save(saved, tmp_path):
    edit(saved, **OWN)
    loaded = Tokenizer.load(saved)
    assert loaded.metadata == OWN
    assert loaded.fingerprint() == tokenizer_of("one slot").fingerprint()
    loaded.save(tmp_path / "again")
    assert Tokenizer.load(tmp_path / "again").metadata == OWN
    assert Tokenizer.load(tmp_path / "again").config == loaded.config


def test_a_tokenizer_without_any_is_saved_as_it_was(saved, tmp_path):
    before = (saved / CONFIG).read_bytes()
    loaded = Tokenizer.load(saved)
    assert loaded.metadata == {}
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again" / CONFIG).read_bytes() == before
    assert list(json.loads(before)) == ["encoder", "decoder", "image_size", "quantizer", "weights_sha256"]


@pytest.mark.parametrize(
    "change",
    [
        {"image_size": 32},
        {"image_size": 16.0},
        {"regularizer": {"_target_": "imtok.regularizers.prefix.NestedDropout"}},
        {"regularizer": None},
        {"space": None},
        {"condition": {}},
        {"quantizer": {"_target_": "imtok.quantizers.vq.VQ", "dim": 4, "codebook_size": 32, "license": "mit"}},
    ],
    ids=str,
)
def test_what_a_tokenizer_is_built_from_stays_sealed(saved, change):
    edit(saved, license="mit", **change)
    with pytest.raises(InputError, match=r"config\.json was altered after it was saved, .*copy it again"):
        Tokenizer.load(saved)


def test_a_key_that_is_taken_away_is_missed(saved):
    config = json.loads((saved / CONFIG).read_text())
    del config["image_size"]
    (saved / CONFIG).write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"config\.json was altered after it was saved"):
        Tokenizer.load(saved)


def test_nothing_is_built_from_keys_of_ones_own(saved):
    edit(saved, other={"_target_": "os.system", "command": "exit"}, _target_="os.abort")
    assert Tokenizer.load(saved).metadata["_target_"] == "os.abort"


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"encoder": {}}, "metadata must have other keys than the tokenizer's own, got encoder"),
        ({"weights_sha256": "0"}, "metadata must have other keys than the tokenizer's own, got weights_sha256"),
        ({"space": None}, "metadata must have other keys than the tokenizer's own, got space"),
        ({"when": object()}, "metadata must be plain values, as JSON has them"),
        ({"score": float("nan")}, "metadata must be plain values, as JSON has them"),
    ],
)
def test_what_cannot_stand_there_is_not_saved(saved, tmp_path, metadata, said):
    loaded = Tokenizer.load(saved)
    loaded.metadata = metadata
    with pytest.raises(ValueError, match=said):
        loaded.save(tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_the_card_shows_licence_and_tags(saved):
    loaded = Tokenizer.load(saved)
    loaded.metadata = OWN
    data = loaded.generate_model_card().data
    assert data.license == "mit"
    assert data.tags.count("imtok") == data.tags.count("cats") == 1
    loaded.metadata = {"tags": "cats"}
    assert "cats" in loaded.generate_model_card().data.tags
    assert loaded.generate_model_card(license="apache-2.0").data.license == "apache-2.0"
