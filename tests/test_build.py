"""Parts that are built from a config: what one refuses is named by its key."""

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from training.runs import tiny_run

from imtok.build import build_part, build_tokenizer
from imtok.config import register_schemas
from imtok.errors import InputError
from imtok.folders import config_folder


def test_a_part_that_refuses_its_settings_is_named():
    register_schemas()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose(
            "train", overrides=["quantizer=fsq", "quantizer.levels=[8,1]", "objective.losses.l2.weight=-1.0"]
        )
    plain = OmegaConf.to_container(config, resolve=True)
    with pytest.raises(InputError, match=r"the tokenizer cannot be built: levels must be .*\[8, 1\]"):
        build_tokenizer(plain)
    with pytest.raises(InputError, match=r"objective\.losses\.l2: weight must not be negative, got -1"):
        build_part(plain, "objective")


def test_an_image_size_that_the_encoder_cannot_read_is_named():
    register_schemas()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose("train", overrides=["image_size=60"])
    with pytest.raises(InputError, match=r"the tokenizer cannot be built: .*60"):
        build_tokenizer(OmegaConf.to_container(config, resolve=True))


def test_no_condition_leaves_no_trace_in_a_run_or_a_tokenizer(tmp_path):
    """So a run of before there were conditions goes on, and a tokenizer keeps its hash."""
    run = tiny_run(tmp_path)
    assert "condition" not in run.config
    assert "\ncondition:" not in run.config_yaml
    assert "condition" not in (run.tokenizer.config or {})
