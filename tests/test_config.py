"""Mistakes of a command line are named all at once, each with its fix."""

import re

import pytest
from omegaconf import OmegaConf

from imtok.cli import run_hydra
from imtok.command_line import check_arguments
from imtok.config import check_command
from imtok.errors import InputError
from imtok.overrides import as_typed
from imtok.plain import PATH_OF


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["quantiser=fsq"], "quantiser: no such key; did you mean quantizer?"),
        (["trainer.max_stepz=3"], "trainer.max_stepz: no such key; did you mean max_steps?"),
        (["quantizer=fsqq"], "quantizer=fsqq: no such option; did you mean fsq?"),
        (["quantizer.codebok_size=8"], "quantizer.codebok_size: no such key; did you mean codebook_size?"),
        (
            ["+quantizer.codebok_size=8"],
            "quantizer.codebok_size: VQ has no argument codebok_size; did you mean codebook_size?",
        ),
        (["trainer.max_steps=many"], "trainer.max_steps: must be a whole number, got many"),
        (["trainer.max_steps=1e3"], "must be a whole number, got 1000.0; write trainer.max_steps=1000"),
        (["seed=true"], "seed: must be a whole number, got true"),
        (["seed='a\nb'"], r"seed: must be a whole number, got 'a\nb'"),
        (
            ["optimizer.lr='1e\N{MINUS SIGN}4'"],
            "optimizer.lr: must be a number, got 1e\N{MINUS SIGN}4; write optimizer.lr=1e-4",
        ),
        (["optimizer.lr=nan"], "optimizer.lr must be a finite number, got nan"),
        (["++objective.losses.l2.weight=inf"], "objective.losses.l2.weight must be a finite number, got inf"),
        (["optimizer.lr=null"], "optimizer.lr: must have a value, got null"),
        (["encoder.depth=-1"], "encoder.depth: must not be negative, got -1"),
        (["encoder._target_=imtok.quantizers.vq.VQ"], "encoder._target_: must be of class Encoder, got VQ"),
        (
            ["+objective.losses.new={_target_:imtok.quantizers.fsq.FSQ,levels:[8]}"],
            "objective.losses.new._target_: must be of class ImageLoss, got FSQ",
        ),
        (
            ["objective={_target_:imtok.losses.pixel.L1Loss}"],
            "objective._target_: must be of class Objective, got L1Loss",
        ),
        (["experiment=titok"], "did you mean titok_b64 or titok_b64_stage1 or titok_bl64 or titok_l32?"),
        (["out=${HOME}/x"], "out: Interpolation key 'HOME' not found; the environment's is ${oc.env:HOME}"),
        (["trainer.accelerator=cdua"], "trainer.accelerator must be one of auto, cpu, gpu, cuda, mps, tpu, got cdua"),
        (["trainer.devices=two"], "trainer.devices must be auto, a number of at least 1, -1 (all) or a list"),
        (["+seed=3"], "seed: there already; write seed=3, without +"),
        (["data=[photo]"], "data=[photo]: takes one option and no list; did you mean photos?"),
        (["encoder=[patch]"], "encoder=[patch]: takes one option and no list; did you mean patch?"),
        (["out="], "out must be a path, got an empty one"),
        (["data=folder", "data.path=''"], "data.path must be a path, got an empty one"),
        (["image_size=${trainer.keep"], "image_size: ${trainer.keep lacks a } that ends ${"),
        (["quantizer.dim={a:1"], """it as a text: 'quantizer.dim='"'"'{a:1'"'"''"""),
        (["seed=", "3"], "seed= 3: write KEY=VALUE without spaces around =: seed=3"),
        (["seed", "=3"], "seed =3: write KEY=VALUE without spaces around =: seed=3"),
        (["optimizer.lr =3"], "optimizer.lr =3: write KEY=VALUE without spaces around =: optimizer.lr=3"),
        (["quantizer.levels=[8,", "8]"], "without spaces, at which the shell parts words: 'quantizer.levels=[8,8]'"),
        (["optimizer.lr:3"], "optimizer.lr:3: not an override; write KEY=VALUE: optimizer.lr=3"),
        (["optimizer.lr"], "optimizer.lr: not an override; write KEY=VALUE: optimizer.lr=VALUE"),
        (["optimizer.lrr"], "optimizer.lrr: not an override; write KEY=VALUE; did you mean lr?"),
        (["\N{EN DASH}m"], "its dash is not the one that flags begin with; write -m"),
        ([""], "'': an empty word; leave it out"),
        (["quantizer._target_=collections.OrderedDict"], "cannot import collections.OrderedDict (no signature"),
        (["quantizer._target_=imtok.quantizers.vq.VQs"], "(imtok.quantizers.vq has no VQs; did you mean VQ?)"),
        (["quantizer.codebook_size=lots"], "quantizer.codebook_size: must be a whole number, got 'lots'"),
        (["quantizer.normalize=1"], "quantizer.normalize: must be true or false, got 1"),
        (["quantizer=fsq", "quantizer.levels=8"], "quantizer.levels: must be a list of whole numbers, got 8"),
        (["++data.flip=yes"], "data.flip: must be true or false, got 'yes'"),
        (["trainer.compile=maybe"], "trainer.compile must be auto, true or false, got maybe"),
        (["trainer.fsdp_replicas=2"], "trainer.fsdp_replicas=2 is for trainer=fsdp"),
        (["trainer.save_async=2"], "trainer.save_async must be auto, true or false, got 2"),
        (["~trainer.max_steps"], "trainer.max_steps: must not be taken out, since the command reads it"),
        (["optimizer.drop_at=4"], "optimizer.drop_at: a list takes brackets; write optimizer.drop_at=[4]"),
        (["data=folder"], "data.path: required and not set; give data.path=VALUE"),
        (["~quantizer.dim"], "quantizer.dim: required by VQ and not set; give +quantizer.dim=VALUE"),
        (["quantizer._target_=imtok.quantizers.vq.VQQ"], "quantizer._target_: cannot import imtok.quantizers.vq.VQQ"),
        (["quantizer._target_=mine.VQ"], "quantizer._target_: cannot import mine.VQ (No module named 'mine')"),
        (["trainer.precision=fp16"], "trainer.precision must be fp32, bf16 or auto, got fp16; fp16 loses codes"),
        (["trainer.max_steps=0"], "trainer.max_steps must be at least 1, got 0"),
        (["optimizer.lr=-1"], "optimizer.lr must be positive, got -1"),
        (["ckpt=last"], "ckpt=last needs out=DIR"),
        (["trainer.devices=2"], "out=DIR must be given with several processes"),
        (["trainer.batch_size=10", "trainer.accumulate=4"], "must be a multiple of trainer.accumulate=4, got 10"),
        (["fsq"], "fsq: not an override; write KEY=VALUE"),
        (["logger=comet"], "logger=comet: no such option; there are csv, "),
        (["+logger={x:{_target_:torch.nn.Linear}}"], "logger.x._target_ must name a subclass of lightning.pytorch.log"),
        (["+logger.x=3"], "logger.x: it has no _target_, so nothing can build it; ~logger.x removes it"),
        (["image_size=${nowhere}"], "image_size: "),
        (["experiment=titok_xxl"], "experiment=titok_xxl: no such option"),
        (["name='a"], "name: "),
        (["lr=1e-4"], "lr: no such key; did you mean optimizer.lr?"),
        (["learning_rate=1"], "learning_rate: no such key; did you mean optimizer.lr?"),
        (["trainer.lr=1"], "trainer.lr: no such key; did you mean optimizer.lr?"),
        (["batch_size=4"], "batch_size: no such key; did you mean trainer.batch_size?"),
        (["steps=9"], "steps: no such key; did you mean trainer.max_steps?"),
        (["max_steps=9"], "max_steps: no such key; did you mean trainer.max_steps?"),
        (["width=9"], "width: no such key; did you mean encoder.width or decoder.width?"),
        (["optimizer=lion"], "optimizer=lion: no such option; there are adam, adamw, muon"),
        (["trainer=cpu"], "trainer=cpu: no such option; did you mean trainer.accelerator=cpu? (options of trainer are"),
        (["trainer=2"], "trainer=2: no such option; did you mean trainer.devices=2?"),
        (["data.path=DIR"], "data.path: no such key; it is a key of data=folder, "),
        (["data.crop=adm"], "data.crop: no such key; it is a key of data=folder, "),
        (["path=DIR"], "path: no such key; did you mean data=folder data.path=DIR?"),
        (["data=/my/photos"], "data=/my/photos: no such option; did you mean data=folder data.path=/my/photos?"),
        (["quantizer=fsq", "quantizer.codebook_size=8"], "it is a key of quantizer=vq, "),
        (["experiment=mine.yaml"], "experiment=mine.yaml: no such option; put it into DIR/experiment and give "),
        (["quantizer=null"], "quantizer=null: no such option; there are "),
        (["+quantizer=fsq"], "+quantizer=fsq: quantizer is chosen already; write quantizer=fsq, without +"),
        (["+experiment=llamagen_vq16"], "write experiment=llamagen_vq16, without +"),
        (["fsq"], "fsq: not an override; write KEY=VALUE: quantizer=fsq"),
        (["./photos"], "./photos: not an override; write KEY=VALUE: data=folder data.path=./photos"),
        (["lr", "=", "3"], "lr = 3: write KEY=VALUE without spaces around =: lr=3"),
        (["judges.x=3"], "judges.x: no such key; judges is a value and no section"),
        (["seed=0,1"], "seed: several values make a sweep, which takes -m"),
        (["out=${hydra:job.num}"], "out: hydra:job.num has no value here; only a sweep (-m) has one"),
        (["+name2=${name}"], "name2: nothing reads it; did you mean name?"),
        (["++optimizer.learning_rate=1"], "optimizer.learning_rate: AdamW has no argument learning_rate; did you mean"),
        (["+optimizer.epsilon=1.0"], "optimizer.epsilon: AdamW has no argument epsilon; did you mean eps?"),
        (["+optimizer.critic.lrr=1.0"], "optimizer.critic.lrr: AdamW has no argument lrr; did you mean lr?"),
        (["+trainer.profiler=simple"], "trainer.profiler: nothing reads it; there are accelerator, "),
        (["++trainer.val_check_interval=5"], "trainer.val_check_interval: nothing reads it; "),
        (["+ema.decai=1"], "ema.decai: nothing reads it; did you mean decay?"),
        (["+callbacks={x:{_target_:a.B}}"], "callbacks: nothing reads it; "),
        (["+quantizr.codebook_size=9"], "quantizr: nothing reads it; did you mean quantizer?"),
        (["+seeed=3"], "seeed: nothing reads it; did you mean seed?"),
        (["+quantizer._partial_=true"], "quantizer._partial_: VQ has no argument _partial_; "),
        (
            ["++objective.losses.l2.wieght=1"],
            "objective.losses.l2.wieght: L2Loss has no argument wieght; did you mean weight?",
        ),
        (["+data.path=DIR"], "data.path: Photos has no argument path; "),
        (["+objective.losses.more=3"], "objective.losses.more: it has no _target_, so nothing can build it; ~"),
        (["objective.losses.l2=null"], "objective.losses.l2: it has no _target_, so nothing can build it; ~"),
        (["+objective.alignments={a:null}"], "objective.alignments.a: it has no _target_, so nothing can build it; ~"),
        (
            ["+objective.alignments={a:{_target_:imtok.losses.pixel.L1Loss}}"],
            "must be of class AlignmentLoss, got L1Loss",
        ),
        (["decoder.up_channels=[-4]"], "decoder.up_channels: must not hold negative numbers, got [-4]"),
        (["~quantizer._target_"], "quantizer._target_: required and not set; it says which class to build"),
        (["~seed"], "seed: must not be taken out, since the command reads it"),
        (["=3"], "=3: not an override; write KEY=VALUE"),
        (["data=folder,photos"], "data: several options make a sweep, which takes -m"),
        (["ema={decay:0.5,decai:2}"], "ema.decai: no such key; did you mean decay?"),
        (["+hydra.verbos=true"], "hydra.verbos: nothing reads it"),
        (["+mine={a:1,b:2}", "seed=${mine.a}"], "mine.b: nothing reads it; there are a"),
        (["+a=${b}", "+b=3", "seed=${b}"], "a: nothing reads it; "),
        (
            ["++objective.losses.more={weight:1}"],
            "objective.losses.more: it has no _target_, so nothing can build it; ~",
        ),
    ],
)
def test_each_kind_of_mistake_is_explained(overrides, message):
    with pytest.raises(InputError) as error:
        check_command("train", overrides)
    assert message in str(error.value)
    assert "1 mistake in the config:" in str(error.value)


@pytest.mark.parametrize(
    "overrides",
    [
        ["~quantizer.restart_below"],
        ["~objective.losses.l2", "+objective.losses.l1={_target_:imtok.losses.pixel.L1Loss,weight:1.0}"],
        ["+mine=3", "seed=${mine}"],
        ["+mine={deep:{seed:3}}", "seed=${mine.deep.seed}"],
        ["+mine={deep:3}", "seed=${oc.select:mine.deep,4}"],
        ["+mine={a:seed,seed:3}", "seed='${mine[${mine.a}]}'"],
        ["+a=3", "+b=${a}", "seed=${.b}"],
        ["++optimizer.lr=1e-4", "++trainer.max_steps=200"],
        ["+trainer.best=psnr", "trainer.evaluate_every=5"],
        ["+optimizer.critic.lr=1e-4"],
        ["image_size=${encoder.patch_size}", "encoder.width=${decoder.width}"],
        ["name=${quantizer._target_}", "out=runs/${name}"],
        ["out=runs/${hydra:runtime.choices.quantizer}"],
        ["out=${oc.env:HOME}/runs", "init_from=~/runs/x"],
        ["out=${now:%Y}/x"],
        ["~quantizer", "+quantizer={_target_:imtok.quantizers.fsq.FSQ,levels:[8,8]}"],
        ["data=folder", "data.path=~/photos", "++data.index=${out}/index", "out=x"],
        ["data=mixture", "data.parts.folder.path=x", "+data@data.parts.more=photos", "+data.weights.more=2"],
        ["+encoder={_target_:tests.test_config.Open,anything:1}"],
        ["experiment=titok_bl64", "size=tiny", "++trainer.keep=1"],
    ],
)  # fmt: skip
def test_right_uses_of_plus_and_tilde_and_interpolations_pass(overrides, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    if "Open" in overrides[0]:
        monkeypatch.setattr("imtok.encoders.patch.PatchEncoder", Open)
        overrides = ["+encoder.anything=1"]
    check_command("train", as_typed(overrides))


class Open:
    """A part that decides itself what it reads."""

    def __init__(self, **settings):
        self.settings = settings


@pytest.mark.parametrize("command", PATH_OF)
def test_every_command_names_a_key_that_nothing_reads(command):
    with pytest.raises(InputError, match=r"  nobodys: nothing reads it; "):
        check_command(command, ["+nobodys=1"])


@pytest.mark.parametrize(
    "override",
    [
        "name='${oc.env:IMTOK_SECRET}'",
        "name='${ oc.env:IMTOK_SECRET}'",
        "name='${oc.${judges}:IMTOK_SECRET}'",
        "name='${oc.decode:${oc.env:IMTOK_SECRET}}'",
        "name='x-${oc.select:missing,${oc.${judges}:IMTOK_SECRET}}'",
    ],
)
def test_no_spelling_of_an_interpolation_reads_the_environment(override, monkeypatch):
    monkeypatch.setenv("IMTOK_SECRET", "e1b7a5c0ffee")
    with pytest.raises(InputError) as error:
        check_command("train", [override, "judges=env"])
    assert "must not read the environment" in str(error.value)
    assert "e1b7a5c0ffee" not in str(error.value)
    assert "only paths may" in str(error.value)
    assert OmegaConf.create({"a": "${oc.env:IMTOK_SECRET}"}).a == "e1b7a5c0ffee"  # elsewhere it is as it was


@pytest.mark.parametrize("flag", ["--config-dir", "--config-name", "--config-path", "--experimental-rerun", "-cn"])
def test_flags_that_go_round_the_check_are_refused_with_another_way(flag, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("sys.argv", ["imtok train", "seed=1", flag, str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        run_hydra("train")
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert "is not accepted, because nothing would check it; " in said
    assert len(said.splitlines()) == 1


def test_files_of_a_folder_of_ones_own_are_options_and_are_checked(tmp_path):
    (tmp_path / "experiment").mkdir()
    own = tmp_path / "experiment/mine.yaml"
    arguments = [f"hydra.searchpath=[file://{tmp_path}]", "experiment=mine"]
    own.write_text("# @package _global_\ndefaults:\n  - override /quantizer: fsq\nseed: 3\n")
    check_command("train", arguments)
    own.write_text("# @package _global_\nseed: -1\noptimizer: {lr: 0}\n")
    with pytest.raises(InputError, match="2 mistakes in the config"):
        check_command("train", arguments)
    own.write_text("# @package _global_\nname: ${oc.env:HOME}\n")
    with pytest.raises(InputError, match="name: must not read the environment"):
        check_command("train", arguments)
    own.write_text("# @package _global_\ntrainer: {max_stepz: 1}\n")
    with pytest.raises(
        InputError, match=r"trainer.max_stepz \(in experiment/mine\): no such key; did you mean max_steps\?"
    ):
        check_command("train", arguments)
    own.write_text("# @package _global_\nencoder: {widht: 1}\n")
    with pytest.raises(InputError, match=r"encoder.widht: PatchEncoder has no argument widht; did you mean width\?"):
        check_command("train", arguments)
    own.write_text("# @package _global_\ndefaults: [/quantizer: fsq]\n")
    with pytest.raises(
        InputError, match=r"experiment=mine: Multiple values for quantizer\..* 'override /quantizer: fsq'"
    ):
        check_command("train", arguments)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["seed=1,", "2"], "seed=1, 2: write KEY=VALUE without spaces, at which the shell parts words: seed=1,2"),
        (["seed=1,2", "lr"], "lr: not an override; write KEY=VALUE"),
        (["+hydra.sweeper.params.seed='1,2'"], "nothing would check it; give the sweep itself, such as -m seed=1,2"),
        (["seed=1,2", "hydra.searchpath=[file:///nowhere]"], "hydra.searchpath: there is no folder /nowhere; give"),
    ],
)
def test_a_mistake_in_a_sweep_is_explained(overrides, message, monkeypatch):
    monkeypatch.setattr("sys.argv", ["imtok train", *as_typed(["-m", *overrides])])
    with pytest.raises(InputError) as error:
        check_arguments("train")
    assert message in str(error.value)
    assert len(str(error.value).splitlines()) <= 2


@pytest.mark.parametrize(
    ("overrides", "messages"),
    [
        (
            ["experiment=one_d_piece_b256", "encoder._target_=imtok.encoders.patch.PatchEncoder"],
            ["encoder: PatchEncoder has no argument", ", which a recipe, ", "~encoder.latents"],
        ),
    ],
)
def test_what_a_recipe_leaves_over_is_one_line_with_the_way_out(overrides, messages):
    given = ["size=tiny", "data=photos", *overrides]
    with pytest.raises(InputError) as error:
        check_command("train", given)
    assert str(error.value).startswith("1 mistake in the config:")
    assert all(message in str(error.value) for message in messages)
    way_out = re.findall(r"~[\w.]+", str(error.value))
    check_command("train", [*given, *way_out])


@pytest.mark.parametrize(
    "overrides",
    [
        ["experiment=titok_l32_stage1", "objective=vqgan"],
        ["experiment=one_d_piece_b256", "encoder=patch"],
        ["experiment=seed", "space=none"],
    ],
)
def test_an_option_of_another_class_leaves_nothing_over(overrides):
    check_command("train", ["size=tiny", "data=photos", *overrides])


def test_all_mistakes_are_named_at_once():
    with pytest.raises(InputError) as error:
        check_command(
            "train", ["quantizer=fsqq", "trainer.max_stepz=3", "encoder.width=wide", "optimizer.lr=0", "out=somewhere"]
        )
    assert str(error.value).startswith("4 mistakes in the config:\n")
    assert len(str(error.value).splitlines()) == 5
