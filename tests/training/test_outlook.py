"""What a run will do and what of its schedules it will not reach is said before its first step."""

import logging
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from training.runs import run_tiny

from imtok.commands.train import Keys, build_run
from imtok.config import check_config, read_keys, register_schemas
from imtok.data.base import Images
from imtok.errors import InputError
from imtok.folders import config_folder
from imtok.nn.frozen import Frozen
from imtok.training.outlook import unlikely
from imtok.training.statement import statement, too_few

RECIPES = sorted(path.stem for path in (config_folder() / "experiment").glob("*.yaml"))


def composed(*overrides):
    register_schemas()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return compose("train", overrides=list(overrides))


def said(*overrides):
    config = composed(*overrides)
    for key in OmegaConf.missing_keys(config):
        OmegaConf.update(config, key, "somewhere")
    typed: Any = read_keys(config, Keys)
    plain: Any = OmegaConf.to_container(config, resolve=True)
    return unlikely(typed.trainer, typed.optimizer, plain)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_schedule_of_a_recipe_fits_into_its_smallest_size(recipe):
    """At its published size, too: tests/test_recipes.py."""
    assert said(f"experiment={recipe}", "size=tiny") == []


@pytest.mark.parametrize(
    ("overrides", "keys"),
    [
        (["trainer.max_steps=20"], ["optimizer.warmup_steps=100", "trainer.max_steps=20"]),
        (["trainer.evaluate_every=2000", "trainer.best=psnr"], ["trainer.evaluate_every=2000", "trainer.best=psnr"]),
        (["trainer.stop_at=2000"], ["trainer.stop_at=2000", "trainer.max_steps=750"]),
        (["experiment=var", "trainer.max_steps=250001"], ["objective.adversary.critic_start=250001"]),
        (
            ["experiment=var", "objective.adversary.generator_start=2000000"],
            ["adversary.generator_start=2000000"],
        ),
        (
            ["experiment=var", "objective.adversary.ramp_steps=800000"],
            ["adversary.ramp_steps=800000", "=250001"],
        ),
        (["experiment=titok_bl64", "trainer.max_steps=205000"], ["optimizer.critic.warmup_steps=10000", "=200000"]),
        (["experiment=semanticist", "trainer.max_steps=31250", "optimizer.warmup_steps=0"], ["regularizer.start_step"]),
        (["regularizer=perturbation", "regularizer.anneal_steps=1600"], ["regularizer.anneal_steps=1600"]),
        (
            ["+objective.ramps.commit={_target_:imtok.objectives.ramps.Ramp,first:3.0,steps:1600}"],
            ["ramps.commit.steps"],
        ),
    ],
)
def test_what_lies_beyond_the_last_step_is_one_line_with_its_keys_and_numbers(overrides, keys):
    (line,) = said(*overrides)
    assert "\n" not in line
    for key in keys:
        assert key in line


def test_a_run_says_at_its_start_what_it_will_do(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    run_tiny(tmp_path, "trainer.max_steps=2")
    lines = dict(
        line.split(maxsplit=1) for line in caplog.messages[: caplog.messages.index(f"folder      {tmp_path}") + 1]
    )
    assert lines["device"] == "cpu with 1 thread, fp32"
    assert lines["images"].startswith("18 to train on, 199 held out, 16 x 16")
    assert lines["tokens"] == "4 per image of 5 bits, 20 bits"
    assert lines["parameters"] == "encoder 7,960 (PatchEncoder), quantizer 256 (VQ), decoder 7,955 (PatchDecoder)"
    assert lines["steps"] == "2 of 4 images (0.444 epochs)"
    assert "optimizer.warmup_steps=3 is more than trainer.max_steps=2" in caplog.text


def test_nets_that_judge_are_counted_apart(tmp_path):
    run = build_run(composed("experiment=seed", "size=tiny", "data.crops_per_photo=1"), tmp_path)
    images = (run.data.train(56, 0), run.data.validation(56))
    device = next(run.tokenizer.parameters()).device
    lines = statement(run.tokenizer, run.objective, images, 56, run.trainer, (device, 2), (50, "runs/a"))
    beside, heads = next(line for line in lines if line.startswith("beside it")), run.objective.heads()
    assert run.tokenizer.space is not None
    assert heads is not None
    space, heads = (sum(p.numel() for p in part.parameters()) for part in (run.tokenizer.space, heads))
    (frozen,) = (part for part in run.objective.modules() if isinstance(part, Frozen))
    teacher = sum(p.numel() for p in frozen.net.parameters())
    assert f"heads {heads / 1e6:,.1f} M" in beside
    assert f"frozen nets {(space + teacher) / 1e6:,.1f} M" in beside
    assert "going on after step 50" in lines[-2]
    assert lines[0].endswith("2 x cpu with 1 thread, fp32")


@pytest.mark.parametrize(
    ("count", "held_out", "told"),
    [
        (
            42,
            1,
            "only 1 image is held out, so the numbers at the end say little; data.val_fraction=0.25 holds out more",
        ),
        (
            100,
            6,
            "only 6 images are held out, so the numbers at the end say little; data.val_fraction=0.1 holds out more",
        ),
        (
            5,
            2,
            "only 2 images are held out, so the numbers at the end say little; data.val_fraction=0.5 holds out more",
        ),
        (200, 10, None),
    ],
)
def test_a_run_says_that_hardly_any_image_is_held_out(count, held_out, told):
    images = cast(tuple[Images, Images], tuple(SimpleNamespace(count=one) for one in (count - held_out, held_out)))
    assert too_few(images, {"val_fraction": 0.05, "val_path": None}) == ([told] if told else [])
    assert too_few(images, {"val_fraction": 0.05, "val_path": "val"}) == []
    assert too_few(images, {"held_out": ["chelsea"]}) == []


@pytest.mark.parametrize("key", ["seed", "trainer.max_steps", "image_size", "quantizer.codebook_size"])
def test_a_number_that_does_not_fit_into_64_bits_is_named(key):
    config = composed(f"{key}=99999999999999999999")
    (line,) = [line for line in check_config(config, "train") if "64 bits" in line]
    assert line == f"{key} must be at most 9223372036854775807 (64 bits), got 99999999999999999999"


def test_a_net_that_no_memory_holds_is_one_line(tmp_path):
    with pytest.raises(InputError, match="the tokenizer cannot be built, since a number is too large"):
        build_run(composed("quantizer.codebook_size=999999999999999"), tmp_path)
