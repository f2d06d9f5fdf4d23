"""Every recipe at size=small: a net of 10 to 40 million parameters for some 10,000 pictures, which trains."""

import logging
import shutil
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image

import imtok.nn.timm_net
from imtok.build import build_tokenizer
from imtok.commands.train import Keys, build_run
from imtok.config import check_config, read_keys, register_schemas
from imtok.folders import config_folder
from imtok.training.outlook import unlikely
from imtok.training.run import train

RECIPES = sorted(path.stem for path in (config_folder() / "experiment").glob("*.yaml"))
TWO_STEPS = (
    "trainer.max_steps=2",
    "trainer.batch_size=2",
    "trainer.pictures_every=0",
    "trainer.workers=0",
    "trainer.accelerator=cpu",
)
EAGER = {"critic_start": 0, "generator_start": 0, "ramp_steps": 0}
TRAINED: set[str] = set()


def composed(recipe, *overrides):
    register_schemas()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return compose("train", overrides=[f"experiment={recipe}", "size=small", *overrides])


@cache
def needed(recipe):
    """The keys that only the user can give."""
    return OmegaConf.missing_keys(composed(recipe))


@pytest.mark.parametrize("recipe", RECIPES)
def test_its_config_has_no_mistake_and_its_net_10_to_40_million_parameters(recipe):
    config = composed(recipe)
    frozen_net = {"decoder.weights", "objective.space.weights"} if recipe.endswith("_stage1") else set()
    missing = OmegaConf.missing_keys(config)
    assert "data.path" in missing  # pictures of one's own
    assert missing - {"data.path"} <= frozen_net
    for key in missing:
        OmegaConf.update(config, key, "somewhere")
    assert check_config(config, "train") == []
    typed: Any = read_keys(config, Keys)
    plain: Any = OmegaConf.to_container(config, resolve=True)
    assert unlikely(typed.trainer, typed.optimizer, plain) == []
    assert (typed.judges, typed.trainer.precision) == ("found", "auto")
    adversary = plain["objective"].get("adversary")
    assert adversary is None or adversary["critic_start"] == typed.trainer.max_steps // 2
    with torch.device("meta"):
        tokenizer = build_tokenizer(plain | ({"freeze": []} if plain["stages"] else {}))  # what all stages learn
    parts = (tokenizer.encoder, tokenizer.quantizer, tokenizer.decoder)
    learning = sum(value.numel() for part in parts for value in part.parameters() if value.requires_grad)
    assert 10_000_000 <= learning <= 40_000_000
    assert max(tokenizer.quantizer.vocab_sizes, default=0) <= 8192
    assert tokenizer.num_tokens((plain["image_size"],) * 2) <= 256


@pytest.fixture
def pictures(tmp_path):
    """Four pictures of one's own, with captions for the recipe that reads them."""
    for index in range(4):
        pixels = np.random.default_rng(index).integers(0, 256, (144, 160, 3), dtype=np.uint8)
        (tmp_path / "pictures").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{index}.png")
        (tmp_path / "pictures" / f"{index}.txt").write_text(f"noise number {index}")
    return tmp_path / "pictures"


@pytest.fixture
def folder(tmp_path):
    """A run folder, which is removed after the test: it holds half a gigabyte."""
    yield tmp_path / "run"
    shutil.rmtree(tmp_path / "run", ignore_errors=True)


@pytest.fixture
def no_weights(tmp_path, monkeypatch):
    """A machine on which no published weights are found."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(imtok.nn.timm_net, "try_to_load_from_cache", lambda *_: None)


@pytest.mark.parametrize("recipe", ["llamagen_vq16", "titok_bl64", "one_d_piece_s256"])
@pytest.mark.usefixtures("no_weights")
def test_two_steps_on_pictures_of_ones_own_without_any_judge_say_how_long_they_take(recipe, pictures, folder, caplog):
    caplog.set_level(logging.INFO)
    config = composed(recipe, "data=folder", f"data.path={pictures}", *TWO_STEPS, "image_size=64")
    assert train(build_run(config, folder)).step == 2
    assert any("left on this machine (cpu with 1 thread): 1 step of " in line for line in caplog.messages)
    assert [line.split()[0] for line in caplog.messages if "is left out (judges=found)" in line]
    assert (folder / "tokenizer" / "model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_two_steps_with_every_judge(recipe, pictures, folder, caplog):
    """At its own size; the nets that judge, and the frozen ones, have random weights."""
    caplog.set_level(logging.INFO)
    config = composed(recipe, "data=folder", f"data.path={pictures}", *TWO_STEPS)
    for key in _weights(config):
        OmegaConf.update(config, key, "random")
    if config.objective.get("adversary"):
        config.objective.adversary.update(EAGER)
    same = OmegaConf.to_yaml(OmegaConf.masked_copy(config, [str(key) for key in config if key not in ("name", "data")]))
    if same in TRAINED:  # sizes of one family are one at size=small
        return
    TRAINED.add(same)
    run = build_run(config, folder)
    assert run.left_out == {}
    assert train(run).step == 2
    assert any("left on this machine" in line for line in caplog.messages)


def _weights(node, path=""):
    """The key of every weight file in a config."""
    for key in node if OmegaConf.is_dict(node) else ():
        inner = f"{path}.{key}".lstrip(".")
        if key == "weights" and path not in ("data", "data.parts"):
            yield inner
        elif not OmegaConf.is_missing(node, key):
            yield from _weights(node[key], inner)


@pytest.mark.parametrize(
    ("gpu", "bf16", "accelerator", "precision"),
    [
        (False, True, "auto", "fp32"),
        (True, True, "auto", "bf16"),
        (True, False, "auto", "fp32"),
        (True, True, "cpu", "fp32"),
    ],
)
def test_precision_auto_is_settled_and_stored_when_a_run_is_built(
    gpu, bf16, accelerator, precision, tmp_path, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: bf16)
    register_schemas()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose("train", overrides=["trainer.precision=auto", f"trainer.accelerator={accelerator}"])
    run = build_run(config, tmp_path)
    assert run.trainer.precision == run.config["trainer"]["precision"] == precision
    assert f"precision: {precision}" in run.config_yaml
