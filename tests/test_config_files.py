"""Every file of configs composes, says what it is, and writes only what differs from the file that it builds on."""

import inspect
import re
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import get_object
from omegaconf import OmegaConf

from imtok.build import build_tokenizer
from imtok.config import check_command, register_schemas
from imtok.folders import config_folder
from imtok.options import option

CONFIGS = Path(__file__).parents[1] / "configs"
GROUPS = sorted(path.name for path in CONFIGS.iterdir() if path.is_dir())


def options(group):
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


def works_in_a_space(encoder):
    """Whether it takes a space: then only a recipe says which (tests/test_recipes.py)."""
    target = option("encoder", encoder)["_target_"]
    return "space" in inspect.signature(get_object(target)).parameters


INHERITING = sorted(
    path.relative_to(CONFIGS).with_suffix("").as_posix()
    for path in CONFIGS.rglob("*.yaml")
    if re.search(r"^defaults: \[\w+, _self_\]$", path.read_text(), flags=re.MULTILINE)
)


@pytest.mark.parametrize("name", INHERITING)
def test_a_file_that_builds_on_another_writes_only_what_differs(name):
    group, _, stem = name.rpartition("/")
    written = OmegaConf.to_container(OmegaConf.load(CONFIGS / f"{name}.yaml"))
    base = option(group, written.pop("defaults")[0])
    assert [key for key, value in written.items() if key in base and base[key] == value] == []
    assert option(group, stem).keys() == base.keys() | written.keys()


def test_configs_are_read_from_the_checkout():
    assert config_folder() == CONFIGS


def needed(command, overrides):
    """Overrides for what only the user can say: where images and published weights are."""
    register_schemas()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose(command, overrides=overrides)
    keys = OmegaConf.missing_keys(config) | ({"init_from"} if config.get("freeze") else set())
    own = {"data.pipeline": "{_target_: collections.Counter}"}  # no path, but an object
    return [f"{key}={own.get(key, 'somewhere')}" for key in sorted(keys)]


OF_OTHERS = ("experiment", "reading")  # tests/test_recipes.py has the recipes; files of data build on reading


@pytest.mark.parametrize("group", [group for group in GROUPS if group not in OF_OTHERS])
def test_every_file_of_every_group_composes_and_passes_the_check(group):
    others = {"protocol": "eval", "extractor": "eval", "format": "convert", "prior": "prior"}
    command = (others | dict.fromkeys(("classifier", "augmentation"), "classify") | {"adapter": "adapt"}).get(
        group, "train"
    )
    names = options(group)
    assert names or group == "size"
    for name in names:
        given = [f"{group}={name}"]
        complete = command == "train" and group != "size" and "???" not in str(option(group, name))
        check_command(command, given if complete else [*given, *needed(command, given)])


@pytest.mark.parametrize("group", GROUPS)
def test_every_file_says_what_it_is(group):
    for path in (CONFIGS / group).glob("*.yaml"):
        lines = [line for line in path.read_text().splitlines() if line != "# @package _global_"]
        assert lines[0].startswith("# "), path
        assert len(lines[0]) > 20, path


@pytest.mark.parametrize("encoder", [name for name in options("encoder") if not works_in_a_space(name)])
def test_every_encoder_builds_with_its_decoder(encoder):
    name = encoder if encoder in options("decoder") else "patch"
    plain = {section: option(section, name) for section in ("encoder", "decoder")}
    plain["encoder"] = option("encoder", encoder)
    plain |= {
        "quantizer": {"_target_": "imtok.quantizers.fsq.FSQ", "levels": [8, 5, 5, 5]},
        "image_size": 448,  # a multiple of 14 too
        "seed": 0,
    }
    if "context_dim" in plain["encoder"]:  # it needs the text of each image
        plain["condition"] = option("condition", "words") | {"dim": plain["encoder"]["context_dim"]}
    with torch.device("meta"):
        assert build_tokenizer(plain).num_tokens((448, 448)) >= 1
