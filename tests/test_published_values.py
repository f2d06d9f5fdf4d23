"""Recipes have the values of their public configs, field by field: tests/published.yaml holds the published ones.

What differs on purpose is said in the first lines of the recipe, and a difference that the table does not list fails.
"""

import math
import re
from functools import cache
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from imtok.config import register_schemas
from imtok.folders import config_folder

EXPERIMENTS = config_folder() / "experiment"
NAMES = {path.stem for path in EXPERIMENTS.glob("*.yaml")}
TABLE = yaml.safe_load((Path(__file__).parent / "published.yaml").read_text())
RECIPES, NO_CONFIG = TABLE["recipes"], TABLE["no_config"]
IMAGES = 1_281_167  # of ImageNet's training set
TOLERANCE = 1e-3  # of computed values: recipes round, and epochs end with or without a partial batch
ABSENT = object()


@cache
def composed(*overrides):
    register_schemas()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return compose("train", overrides=list(overrides))


def found(config, key):
    """The value of a dotted key, as plain Python."""
    value = OmegaConf.select(config, key, default=ABSENT)
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def computed(value, batch_size):
    """Published values as numbers: ``4.5e-6 * 8 * 12``, ``1e-5 / 1e-4``, ``40 epochs``. Words and flags stay."""
    if isinstance(value, list):
        return [computed(one, batch_size) for one in value]
    if not isinstance(value, str) or not re.match(r"\d", value):
        return value
    if value.endswith(" epochs"):
        return float(value.removesuffix(" epochs")) * IMAGES / batch_size
    first, *others = re.split(r" ([*/]) ", value)
    result = float(first)
    for sign, factor in zip(others[::2], others[1::2], strict=True):
        result = result * float(factor) if sign == "*" else result / float(factor)
    return result


def equal(ours, published, batch_size):
    wanted = computed(published, batch_size)
    if isinstance(wanted, list):
        same_length = isinstance(ours, list) and len(ours) == len(published)
        return same_length and all(equal(*pair, batch_size) for pair in zip(ours, published, strict=True))
    numbers = [type(value) in (int, float) for value in (ours, wanted)]
    if not all(numbers):
        return type(ours) is type(wanted) and ours == wanted
    return math.isclose(ours, wanted, rel_tol=TOLERANCE if isinstance(published, str) else 1e-9)


def differences(config, same):
    """Which keys of a config are not as published, with both values."""
    batch = config.trainer.batch_size
    values = {key: found(config, key) for key in same}
    return [
        f"{key} is {'absent' if ours is ABSENT else ours}, published is {same[key]}"
        for key, ours in values.items()
        if not equal(ours, same[key], batch)
    ]


def first_lines(recipe):
    rows = (EXPERIMENTS / f"{recipe}.yaml").read_text().splitlines()
    return " ".join(row.removeprefix("# ") for row in rows[: rows.index("defaults:")])


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_has_the_published_values(recipe):
    assert differences(composed(f"experiment={recipe}"), RECIPES[recipe]["same"]) == []


@pytest.mark.parametrize("recipe", [name for name, row in RECIPES.items() if "differs" in row])
def test_what_differs_is_said_in_the_first_lines(recipe):
    config, listed = composed(f"experiment={recipe}"), RECIPES[recipe]["differs"]
    batch = config.trainer.batch_size
    assert differences(config, {key: row["ours"] for key, row in listed.items()}) == []
    assert [key for key, row in listed.items() if equal(found(config, key), row["published"], batch)] == []
    assert [row["said"] for row in listed.values() if row["said"] not in first_lines(recipe)] == []
    assert not listed.keys() & RECIPES[recipe]["same"].keys()


def test_every_recipe_is_in_the_table_or_has_a_reason_not_to_be():
    assert RECIPES.keys() | NO_CONFIG.keys() == NAMES
    assert not RECIPES.keys() & NO_CONFIG.keys()
    assert all(", " in row["source"] for row in RECIPES.values()), "repository, file"


def test_the_table_holds_a_recipe_to_each_of_its_fields():
    """Each way to be wrong is found: a number, a rounded product, a list, a word, a length, a null, a missing key."""
    same = RECIPES["open_magvit2"]["same"]
    wrong = {
        "optimizer.lr": "1.001e-4",
        "trainer.batch_size": "512",
        "optimizer.betas": "[0.9,0.9]",
        "encoder.attention": "lowest",
        "trainer.max_steps": "1360000",
        "trainer.clip": "1.0",
        "optimizer.drop_at": "[1000800]",
    }
    for key, value in wrong.items():
        config = composed("experiment=open_magvit2", f"{key}={value}")
        assert any(row.startswith(f"{key} is ") for row in differences(config, same)), key
    absent = differences(composed("experiment=open_magvit2"), {"optimizer.rate": 1.0e-4})
    assert absent == ["optimizer.rate is absent, published is 0.0001"]
