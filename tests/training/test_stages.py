"""A recipe of two stages by one command: both are runs, and a kill anywhere changes nothing."""

import signal
import subprocess
import sys
import time

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from safetensors.torch import load_file

from imtok.build import build_tokenizer
from imtok.config import check_config, register_schemas
from imtok.folders import config_folder
from imtok.training.init_from import take_weights

STAGE = "titok_l32_stage1"
TINY = (
    "experiment=titok_l32",
    "size=tiny",
    f"stages={{{STAGE}:{{}}}}",
    "freeze=[encoder,quantizer]",
    "data.crops_per_photo=2",
    "data.held_out=[chelsea]",
    "trainer.batch_size=4",
    "trainer.save_every=2",
    "trainer.pictures_every=0",
    "trainer.log_every=2",
    "trainer.threads=1",
    "trainer.accelerator=cpu",
    "trainer.max_steps=8",
    f"stages.{STAGE}.trainer.max_steps=6",
)
TWO_STAGES = [
    *("titok_l32", "titok_b64", "titok_s128", "alit", "karl"),
    *("one_d_piece_s256", "one_d_piece_b256", "one_d_piece_l256"),
]


def command(folder, *more):
    return [sys.executable, "-m", "imtok.cli", "train", *TINY, f"out={folder}", *more]


def finished(folder, *more):
    """The command, to its end."""
    done = subprocess.run(command(folder, "ckpt=last", *more), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def killed(folder, *until):
    """The command, killed as soon as one of the files is there."""
    process = subprocess.Popen(command(folder, "ckpt=last"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not any(path.exists() for path in until):
        assert process.poll() is None, "it has ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()


def learnt(folder):
    """The weights of both stages, and what stage 2 has made of them on its way."""
    files = [folder / name / "model.safetensors" for name in (f"stages/{STAGE}/tokenizer", "tokenizer")]
    files += sorted((folder / "checkpoints/step_8").glob("*.safetensors"))
    return [load_file(path) for path in files]


def same(one, other):
    assert len(one) == len(other) >= 3
    for mine, its in zip(one, other, strict=True):
        assert mine.keys() == its.keys()
        assert all(bool((mine[name] == its[name]).all()) for name in mine)


@pytest.mark.slow
def test_killed_in_the_first_stage_between_and_in_the_second_it_ends_bit_for_bit_as_uninterrupted(tmp_path):
    finished(tmp_path / "whole")
    expected = learnt(tmp_path / "whole")
    folder = tmp_path / "cut"
    first = folder / "stages" / STAGE
    killed(folder, first / "checkpoints/step_2", first / "checkpoints/step_4")
    killed(folder, first / "summary.json")
    assert not (folder / "checkpoints").exists()
    killed(folder, folder / "checkpoints/step_2", folder / "checkpoints/step_4")
    printed = finished(folder)
    assert "stage 1" not in printed
    same(learnt(folder), expected)
    stage1, stage2 = learnt(tmp_path / "whole")[:2]
    encoder = [name for name in stage1 if name.startswith(("encoder.", "quantizer."))]
    assert encoder
    assert all(bool((stage1[name] == stage2[name]).all()) for name in encoder)  # stage 2 began with what stage 1 learnt
    decoder = [name for name in stage1 if name.startswith("decoder.pixels")]
    assert any(bool((stage1[name] != stage2[name]).any()) for name in decoder)


FEW = [TWO_STAGES[0], *(pytest.param(one, marks=pytest.mark.slow) for one in TWO_STAGES[1:])]


@pytest.mark.parametrize("recipe", FEW)
def test_a_recipe_of_two_stages_says_so_and_its_first_stage_makes_the_nets_of_the_second(recipe):
    register_schemas("train")
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        whole = compose("train", overrides=[f"experiment={recipe}", "data.path=somewhere"])
        (before,) = whole.stages
        first = compose("train", overrides=[f"experiment={before}", "data.path=somewhere"])
        small = [compose("train", overrides=[f"experiment={recipe}", f"size={size}"]) for size in ("tiny", "small")]
    assert before == f"{recipe}_stage1"
    weights = [line for line in check_config(whole, "train") if "required" not in line]
    assert weights == []
    assert [config.stages for config in small] == [None, None]  # these need no stage 1
    for name in ("encoder", "quantizer", "image_size"):
        assert whole[name] == first[name], name
    own, its = (OmegaConf.to_container(config.decoder) for config in (whole, first))
    assert {**own, "weights": None} == {**its, "weights": None}


@pytest.fixture
def said(tmp_path, monkeypatch, capsys):
    """What a command says that is refused."""
    from imtok.cli import main

    monkeypatch.chdir(tmp_path)

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["imtok", "train", *TINY, *words])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        return capsys.readouterr().err

    return call


def test_stages_that_cannot_be_are_refused_in_a_line(said, tmp_path, monkeypatch):
    (tmp_path / "run/stages").mkdir(parents=True)
    assert "out=run holds stages of a run; give another folder, or ckpt=last" in said("out=run")
    assert "holds the first stages of a run; give the whole command" in said("out=run", "stages=null", "freeze=[]")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    refused = said("out=new")
    assert "a launcher starts one stage at a time; give it imtok train experiment=titok_l32_stage1 size=tiny" in refused
    assert not (tmp_path / "new").exists()


def test_a_stage_is_told_what_every_stage_is_and_what_it_alone_is(said, tmp_path, monkeypatch):
    """The words of the first stage, as they stand in the message that a launcher's user gets."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    refused = said("out=new", "optimizer.lr=1e-9", f"stages.{STAGE}.optimizer.lr=0.5", "seed=3")
    words = refused.split(" give it ")[1].split(", and then")[0]
    assert "optimizer.lr=0.5" in words
    assert "1e-9" not in words
    assert "seed=3" in words
    assert "freeze" not in words
    assert words.endswith(f"stages=null ckpt=last out=new/stages/{STAGE}")


def test_wetok_s_generative_decoder_begins_with_the_weights_of_its_first_stage_and_nothing_of_the_noise(tmp_path):
    register_schemas("train")
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        whole = compose("train", overrides=["experiment=wetok_generative"])
        own = whole.stages.wetok
        words = ["experiment=wetok", f"encoder={own.encoder}", f"decoder={own.decoder}"]
        first = compose("train", overrides=[*words, f"decoder.multipliers={list(own['decoder.multipliers'])}"])
        assert first.encoder == whole.encoder
        assert first.quantizer == whole.quantizer
        assert first.decoder.multipliers == whole.decoder.multipliers
        tiny = [compose("train", overrides=[*one, "size=tiny"]) for one in (words, ["experiment=wetok_generative"])]
    before, after = (build_tokenizer(OmegaConf.to_container(config, resolve=True)) for config in tiny)
    before.save(tmp_path / "before")
    take_weights(after, str(tmp_path / "before"))
    image = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.inference_mode():
        torch.testing.assert_close(after.eval()(image).image, before.eval()(image).image)


def test_a_stage_can_begin_with_some_parts_of_the_one_before(tmp_path):
    """AliTok's second decoder has another shape than its first."""
    first, words = "alitok_stage1", [word for word in TINY[2:] if STAGE not in word]
    words = [
        "experiment=alitok",
        "size=tiny",
        *words,
        f"stages={{{first}:{{}}}}",
        f"stages.{first}.trainer.max_steps=4",
    ]
    words += ["init_from.parts=[encoder,quantizer]", "freeze=[encoder,quantizer]", f"out={tmp_path}", "ckpt=last"]
    call = [sys.executable, "-m", "imtok.cli", "train", *words]
    done = subprocess.run(call, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    before, after = (
        load_file(tmp_path / name / "model.safetensors") for name in (f"stages/{first}/tokenizer", "tokenizer")
    )
    kept = [name for name in before if name.startswith(("encoder.", "quantizer."))]
    assert len(kept) > 10
    assert all(torch.equal(before[name], after[name]) for name in kept)
    assert any(before[name].shape != after[name].shape for name in before.keys() & after.keys())
    again = subprocess.run(call, capture_output=True, text=True)
    assert again.returncode == 0
    assert "already finished" in again.stdout


def test_parts_without_a_run_need_a_stage_before():
    register_schemas("train")
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        staged = compose("train", overrides=["experiment=alitok", "data.path=."])
        alone = compose("train", overrides=["experiment=alitok", "data.path=.", "stages=null"])
    said = "init_from.parts needs the tokenizer whose parts they are; give init_from.path=RUN"
    assert not any(said in line for line in check_config(staged, "train"))
    assert any(said in line for line in check_config(alone, "train"))
