"""Weights that cannot be had are named by the key of the config that takes their file, in every recipe."""

import re
from functools import cache

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from imtok.build import build_part, build_tokenizer
from imtok.commands.train import build_run
from imtok.config import register_schemas
from imtok.errors import InputError
from imtok.folders import config_folder
from imtok.pretrained import fetch_weights
from imtok.training.told_sizes import tell_sizes

RECIPES = sorted(path.stem for path in (config_folder() / "experiment").glob("*.yaml"))

SECTIONS = ("encoder", "quantizer", "decoder", "space", "objective")
SEEN: set[str] = set()


@cache
def tiny(recipe):
    register_schemas()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return compose("train", overrides=[f"experiment={recipe}", "size=tiny"])


def places(node, path=""):
    """The key of every weight file in a config."""
    if OmegaConf.is_dict(node):
        if "_target_" in node and "weights" in node:
            yield f"{path}.weights"
        for key in node:
            yield from places(node[key], f"{path}.{key}")


def named_places(config):
    return [place for section in SECTIONS if config.get(section) for place in places(config[section], section)]


def start(config):
    plain = OmegaConf.to_container(config, resolve=True)
    tokenizer = build_tokenizer(plain)
    tell_sizes(plain["objective"], tokenizer, plain["image_size"])
    fetch_weights(build_part(plain, "objective"), "objective")
    fetch_weights(tokenizer)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_weight_file_of_a_recipe_is_named_by_its_own_key(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    parts = OmegaConf.to_yaml(OmegaConf.masked_copy(tiny(recipe), [*SECTIONS, "image_size"]))
    if parts in SEEN:  # sizes of one family are one at size=tiny
        return
    SEEN.add(parts)
    for place in named_places(tiny(recipe)):
        config = tiny(recipe).copy()
        OmegaConf.update(config, place, "gone.pth")
        with pytest.raises(InputError) as caught:
            start(config)
        assert f"{place}=gone.pth" in str(caught.value)
        for key in re.findall(r"([\w.+]+)=", str(caught.value)):
            assert OmegaConf.select(config, key, default="no such key") != "no such key", key


def test_a_file_that_is_nowhere_is_asked_for_by_its_key(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    config = tiny("llamagen_vq16").copy()
    config.objective.losses.lpips.weights = None
    with pytest.raises(InputError, match=r"or give its path as objective\.losses\.lpips\.weights=PATH$"):
        build_run(config, tmp_path / "run")
    other = tmp_path / "other.pth"
    torch.save({}, other)
    config.objective.losses.lpips.weights = str(other)
    with pytest.raises(InputError, match=r"or give \+objective\.losses\.lpips\.sha256=null"):
        build_run(config, tmp_path / "run")


def test_what_a_nested_part_refuses_is_named_by_its_key(tmp_path):
    config = tiny("llamagen_vq16").copy()
    config.objective.adversary.critic.halvings = 0
    with pytest.raises(InputError, match=r"^objective\.adversary\.critic: channels and halvings must be at least 1"):
        build_run(config, tmp_path / "run")
