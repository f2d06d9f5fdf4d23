"""What parts of a config refuse to take from each other is one line for the user, as when they are built."""

import re

import pytest
from hydra import compose, initialize_config_dir
from training.runs import tiny_run

from imtok.commands.train import build_run
from imtok.config import register_schemas
from imtok.errors import InputError
from imtok.folders import config_folder
from imtok.training.run import train
from imtok.training.task import TokenizerTask
from imtok.training.wandb import Wandb

pytestmark = pytest.mark.usefixtures("rehearsed")


def composed(*overrides):
    register_schemas()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return compose("train", overrides=list(overrides))


CRITIC = (
    "+objective.adversary={_target_:imtok.losses.adversarial.Adversary,critic_start:13,"
    "critic:{_target_:imtok.critics.patchgan.PatchGAN,channels:4,halvings:3}}"
)
LPIPS = "+objective.losses.lpips={_target_:imtok.losses.lpips.LPIPSLoss,net:alex,weights:random}"
ALIGNMENT = (
    "+objective.alignments.repa={_target_:imtok.losses.alignment.alignment.Alignment,source:quantizer,"
    "teacher:{_target_:imtok.losses.teachers.Teacher,name:test_vit,weights:random,image_size:32},"
    "head:{_target_:imtok.losses.alignment.heads.MLPHead,in_dim:9,out_dim:64,width:8,layers:2}}"
)


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["regularizer=nested"], r"decoder \(PatchDecoder\): every latent is needed here.*give regularizer=none"),
        (
            ["regularizer=perturbation", "regularizer.delta=33", "regularizer.beta=1.0"],
            r"quantizer \(VQ\): count of neighbours must be",
        ),
        (["regularizer=scale_dropout"], r"regularizer \(ScaleDropout\): the quantizer must have scales"),
        (["regularizer=slot_dropout", "regularizer.fewest=2"], r"regularizer \(SlotDropout\): fewest must be at most"),
        (["objective=flow"], r"objective \(FlowObjective\): decoder must be one that draws"),
        ([LPIPS], r"objective.losses.lpips \(LPIPSLoss\): images must be at least 31 pixels.*image_size is 16"),
        ([CRITIC], r"objective.adversary.critic \(PatchGAN\): images must be at least 24 pixels.*image_size is 16"),
        ([ALIGNMENT], r"objective.alignments.repa \(Alignment\): head.in_dim must be 8, that of quantizer, got 9"),
    ],
)
def test_parts_that_do_not_go_together_are_one_line_of_keys_before_there_is_a_folder(tmp_path, overrides, line):
    """A critic that starts late is refused as early."""
    with pytest.raises(InputError, match=f"^parts of the config do not go together: {line}") as caught:
        train(tiny_run(tmp_path / "run", *overrides))
    assert "\n" not in str(caught.value)
    assert "keep" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_ramp_of_no_term_is_refused_before_there_is_a_folder_and_the_same_folder_takes_the_mended_run(tmp_path):
    ramp = "+objective.ramps={foo:{_target_:imtok.objectives.ramps.Ramp,first:3.0,steps:4}}"
    with pytest.raises(InputError, match=r"objective\.ramps must name terms"):
        train(tiny_run(tmp_path / "run", ramp))
    assert train(tiny_run(tmp_path / "run", "trainer.max_steps=1")).step == 1


def test_a_run_that_is_refused_in_its_first_step_gives_the_folder_back(tmp_path, monkeypatch):
    """By an image of the first batch, say."""

    def refuse(*_):
        raise InputError("data.path: no image can be read")

    def begin(logger):
        (logger.folder / "wandb" / "offline-run").mkdir(parents=True)
        raise ConnectionError("no network")

    monkeypatch.setattr(Wandb, "start", begin)
    with monkeypatch.context() as patched:
        patched.setattr(TokenizerTask, "training_step", refuse)
        with pytest.raises(InputError, match="no image can be read"):
            train(tiny_run(tmp_path / "run", "trainer.max_steps=1", "logger=wandb"))
    assert not (tmp_path / "run").exists()
    assert train(tiny_run(tmp_path / "run", "trainer.max_steps=1")).step == 1


@pytest.mark.parametrize(
    ("overrides", "left"),
    [
        (
            ["experiment=titok_bl64", "size=tiny", "objective=reconstruction"],
            ["objective.losses.lpips", "objective.ad"],
        ),
        (["experiment=seed", "size=tiny", "space=none", "encoder.reads=pixels"], ["space"]),
        (["+objective.alignments.repa.teacher.name=test_vit"], ["objective.alignments.repa"]),
    ],
)
def test_keys_of_a_part_that_is_not_chosen_are_named_with_what_leaves_them_out(tmp_path, overrides, left):
    with pytest.raises(InputError, match="no class") as caught:
        build_run(composed(*overrides), tmp_path / "run")
    for key in left:
        assert key in str(caught.value)
    cure = re.findall(r"~\S+", str(caught.value))
    build_run(composed(*overrides, *cure), tmp_path / "run")


def test_a_fault_of_anything_else_keeps_its_traceback(tmp_path, monkeypatch):
    run = tiny_run(tmp_path / "run")
    monkeypatch.setattr(run.objective, "forward", lambda *_: int("no number"))
    with pytest.raises(ValueError, match="invalid literal") as caught:
        train(run)
    assert not isinstance(caught.value, InputError)
    assert not run.folder.exists()


def test_a_frozen_net_without_its_weights_is_named(tmp_path, caplog):
    """Codes that nobody has learnt and nobody will learn: a second stage without ``init_from`` is of no use."""
    quick = ("data.crops_per_photo=1", "trainer.max_steps=1", "trainer.batch_size=1", "trainer.workers=0")
    config = composed("experiment=alit", "size=tiny", *quick, f"out={tmp_path}")
    train(build_run(config, tmp_path))
    for part in ("decoder", "space"):
        assert f"{part} has random weights (weights=random): good for trying things out" in caplog.text
