"""Composed recipes."""

from hydra import compose, initialize_config_dir

from imtok.config import register_schemas
from imtok.folders import config_folder


def composed(recipe, *overrides):
    register_schemas()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return compose("train", overrides=[f"experiment={recipe}", *overrides])
