"""A run that is told what a frozen text tower makes of the captions, from its rehearsal to its programs."""

import json

import pytest
import torch
from conditions.towers import write_tower
from safetensors.torch import load_file
from training.conditioned import PARTS
from training.runs import tiny_run, write_images

from imtok.errors import InputError
from imtok.tokenizer import Tokenizer
from imtok.training.run import train

SIZES = ("condition.dim=16", "condition.length=10", "decoder.context_dim=16", "decoder.context_length=10")
SHORT = ("data=folder", "trainer.max_steps=2", "trainer.pictures_every=2", "trainer.save_every=1")


@pytest.fixture
def images(tmp_path):
    folder = write_images(tmp_path / "images", 12)
    for number, path in enumerate(sorted(folder.rglob("*.png"))):
        path.with_suffix(".txt").write_text(("a red fox", "two cats in the snow", "a blue circle")[number % 3])
    return folder


@pytest.mark.parametrize(("kind", "preset"), [("t5", "t5_xl"), ("clip", "clip_l"), ("siglip", "siglip2")])
def test_a_run_holds_what_it_learns_of_a_tower_and_nothing_of_the_tower(kind, preset, images, tmp_path, caplog):
    caplog.set_level("DEBUG", "imtok.training")
    words = (*PARTS, f"condition={preset}", *SIZES, *SHORT, f"data.path={images}", "data.val_fraction=0.3")
    tower = write_tower(tmp_path / "tower", kind)
    run = tiny_run(tmp_path / "run", *words, f"condition.weights={tower}")
    before = {name: value.clone() for name, value in run.tokenizer.condition.net.state_dict().items()}
    train(run)
    assert not [line for line in caplog.messages if "not tried" in line or "not followed" in line]
    after = run.tokenizer.condition.net.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())

    learned = load_file(tmp_path / "run/tokenizer/model.safetensors")
    assert not [name for name in learned if name.startswith("condition")]
    of_text = {name for name in learned if "context" in name}
    assert of_text == {f"decoder.{name}" for name in (
        "embed_context.weight", "embed_context.bias", "context_positions", "missing_context",
    )}  # fmt: skip
    for path in (tmp_path / "run").rglob("*"):
        assert path.is_dir() or str(tower).encode() not in path.read_bytes(), path
    section = json.loads((tmp_path / "run/tokenizer/config.json").read_text())["condition"]
    assert section["weights"] is None
    assert len(section["sha256"]) == 64

    again = tiny_run(
        tmp_path / "again", *words, f"condition.weights={tower}", f"ckpt={tmp_path}/run/checkpoints/step_1"
    )
    train(again)
    both = [(tmp_path / name / "tokenizer/model.safetensors").read_bytes() for name in ("run", "again")]
    assert both[0] == both[1]

    other = write_tower(tmp_path / "other", kind, seed=1)
    loaded = Tokenizer.load(tmp_path / "run")
    loaded.condition.weights = str(other)
    with pytest.raises(InputError, match="other is not the expected text tower"):
        loaded.condition_for(1, ["a red fox"])
