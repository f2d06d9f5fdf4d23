"""A run goes on with nothing but ckpt=last out=RUN, by the config that it has stored."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file
from training.runs import TINY

from imtok import running
from imtok.cli import run_hydra
from imtok.continued import stored_config
from imtok.errors import InputError
from imtok.training.resume import changes, check_changes

SAVED = Path(__file__).parents[1] / "saved"


def command(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["imtok train", *words])
    run_hydra("train")


def edited(path, change):
    config = yaml.safe_load(path.read_text())
    change(config)
    path.write_text(yaml.safe_dump(config))


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        command(patch, *TINY, "trainer.max_steps=6", "trainer.save_every=3", "out=whole")
        command(patch, *TINY, "trainer.max_steps=6", "trainer.save_every=3", "trainer.stop_at=3", "out=run")
    return folder


@pytest.fixture
def run(stopped, tmp_path, monkeypatch):
    shutil.copytree(stopped / "run", tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run"


def test_it_ends_bit_for_bit_where_the_whole_run_ends(run, stopped, monkeypatch):
    command(monkeypatch, "ckpt=last", "out=run")
    ours, whole = (load_file(place / "tokenizer/model.safetensors") for place in (run, stopped / "whole"))
    assert all(bool((ours[name] == whole[name]).all()) for name in whole)
    starts = json.loads((run / "run.json").read_text())["starts"]
    assert [start["command"].split()[-2:] for start in starts] == [
        ["trainer.stop_at=3", "out=run"],
        ["ckpt=last", "out=run"],
    ]
    assert all({"started", "config", "commit", "host", "versions"} <= set(start) for start in starts)


def test_what_is_typed_is_put_in_and_compared(run, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        command(monkeypatch, "ckpt=last", "out=run", "optimizer.lr=0.5")
    assert "optimizer.lr: 0.002 -> 0.5" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command(monkeypatch, "ckpt=last", "out=run", "encoder.depht=2")
    assert "encoder.depht: the run in run has no such key; +encoder.depht=VALUE adds it" in capsys.readouterr().err
    command(monkeypatch, "ckpt=last", "out=run", "trainer.max_steps=7")
    assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["max_steps"] == 7


def test_more_steps_are_named_and_fewer_are_asked_for():
    old, new = {"trainer": {"max_steps": 4}}, {"trainer": {"max_steps": 6}}
    assert check_changes(old, new, []) == ["trainer.max_steps: 4 -> 6"]
    with pytest.raises(InputError, match=r"allow_change=\[trainer\.max_steps\]"):
        check_changes(new, old, [])


def test_words_that_compose_a_config_do_so_as_before(run):
    for words in (["out=run"], ["ckpt=last", "out=new"], ["ckpt=last", "out=run", "quantizer=fsq"],
                  ["ckpt=last", "out=run", "experiment=titok_bl64"], ["ckpt=last", "out=run", "seed=1,2"]):  # fmt: skip
        assert stored_config(words) is None
    found = stored_config(["ckpt=last", "out=run"])
    assert found is not None
    assert (found.trainer.stop_at, found.ckpt, found.out) == (None, "last", "run")


HOSTILE = [
    ("encoder", lambda config: config["encoder"].update(_target_="os.system")),
    ("data", lambda config: config["data"].update(_target_="subprocess.Popen")),
    ("quantizer", lambda config: config["quantizer"].update(_target_="imtok.encoders.patch.PatchEncoder")),
    ("objective", lambda config: config["objective"]["losses"].update(x={"_target_": "builtins.eval"})),
    ("optimizer", lambda config: config["optimizer"].update(_target_="os.system")),
    ("optimizer.critic", lambda config: config["optimizer"]["critic"].update(_target_="torch.load")),
    ("optimizer.beside", lambda config: config["optimizer"].update(beside={"_target_": "torch.hub.load"})),
    ("schedule", lambda config: config["schedule"].update(_target_="torch.optim.AdamW")),
    ("measure.x", lambda config: config["measure"].update(x={"_target_": "pathlib.Path.touch"})),
    ("measure.x.feature", lambda config: config["measure"].update(
        x={"_target_": "torchmetrics.image.fid.FrechetInceptionDistance", "feature": {"_target_": "os.system"}})),
    ("logger.x", lambda config: config.update(logger={"x": {"_target_": "os.system"}})),
    ("callback.x", lambda config: config.update(callback={"x": {"_target_": "lightning.Trainer"}})),
    ("trainer.lightning.x", lambda config: config["trainer"].update(lightning={"x": {"_target_": "os.system"}})),
    ("name", lambda config: config.update(name={"_target_": "os.system"})),
    ("note", lambda config: config.update(note="${oc.env:HOME}")),
]  # fmt: skip


@pytest.mark.parametrize(("key", "change"), HOSTILE, ids=[key for key, _ in HOSTILE])
def test_a_strangers_run_builds_nothing_else(run, key, change, monkeypatch, capsys):
    edited(run / "config.yaml", change)
    monkeypatch.setattr(running, "check_config", lambda *_: pytest.fail("went on"))
    with pytest.raises(SystemExit) as ended:
        command(monkeypatch, "ckpt=last", "out=run")
    assert ended.value.code == 2
    assert f"run/config.yaml: {key}" in capsys.readouterr().err


@pytest.mark.parametrize("folder", sorted(path.name for path in SAVED.iterdir() if (path / "run").is_dir()))
def test_a_run_of_before_goes_on_alone(folder, tmp_path, monkeypatch):
    for name in ("run", "images"):
        shutil.copytree(SAVED / folder / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    command(monkeypatch, "ckpt=last", "out=run")
    ours, whole = load_file("run/tokenizer/model.safetensors"), load_file(SAVED / folder / "whole.safetensors")
    assert all(bool((ours[name] == whole[name]).all()) for name in whole)


def test_a_run_needs_no_file_that_a_net_of_it_began_with():
    before = {"encoder": {"weights": "a", "semantic": {"weights": "a", "width": 8}}, "space": {"weights": "a"}}
    after = {"encoder": {"weights": "b", "semantic": {"weights": "b", "width": 9}}, "space": {"weights": "b"}}
    assert changes(before, after) == {"encoder.semantic.width": (8, 9)}
