"""A run says which judges it is without, and goes on with the same ones."""

import json
import logging

import pytest
from lightning import LightningModule, Trainer
from training.runs import losses_of, run_tiny

import imtok.nn.efflite0
import imtok.training.alike
from imtok.errors import InputError
from imtok.training.alike import Alike
from imtok.training.folder import left_out_so_far

FOUND = (
    "+objective.losses.efflite0={_target_:imtok.losses.efflite0.EffLite0Loss,weights:null}",
    "trainer.save_every=2",
)


@pytest.fixture
def absent(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(imtok.nn.efflite0, "find_spec", lambda _: None)
        yield patch


def test_the_judges_of_a_run_stay_the_same_when_weights_appear(tmp_path, caplog, absent):
    caplog.set_level(logging.INFO)
    run_tiny(tmp_path, *FOUND, "judges=found", "trainer.max_steps=4", "trainer.stop_at=2")
    (line,) = [line for line in caplog.messages if "left out" in line]
    assert line.startswith("objective.losses.efflite0 is left out (judges=found): the weights of efflite0 are missing")
    facts = json.loads((tmp_path / "run.json").read_text())
    assert list(facts["left_out"]) == ["objective.losses.efflite0"]
    assert list(facts["config"]["objective"]["losses"]) == ["l2"]

    absent.undo()  # now they are here
    with pytest.raises(InputError, match=r"objective\.losses\.efflite0\._target_: None -> imtok") as caught:
        run_tiny(tmp_path, *FOUND, "judges=required", "trainer.max_steps=4", "ckpt=last")
    assert "allow_change=[objective.losses.efflite0" in str(caught.value)
    caplog.clear()
    run_tiny(tmp_path, *FOUND, "judges=found", "trainer.max_steps=4", "ckpt=last")
    (line,) = [line for line in caplog.messages if "left out" in line]  # the reason of then is not that of today
    assert line == (
        "objective.losses.efflite0 is left out (judges=found): this run began without it; judges=required "
        "allow_change=[objective] takes it in"
    )
    run_tiny(tmp_path.with_name("whole"), "trainer.max_steps=4", "trainer.save_every=2")
    assert losses_of(tmp_path) == losses_of(tmp_path.with_name("whole"))
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["left_out"] == ["objective.losses.efflite0"]
    said = "without objective.losses.efflite0, whose weights were not on its machine"
    assert said in (tmp_path / "evaluation/report.html").read_text()
    assert said in (tmp_path / "evaluation/report.md").read_text()


def test_a_judge_that_is_gone_is_refused_and_not_left_out_halfway(tmp_path, monkeypatch):
    run_tiny(tmp_path, *FOUND, "judges=found", "image_size=32", "trainer.max_steps=2", "trainer.stop_at=1")
    assert "left_out" not in json.loads((tmp_path / "run.json").read_text())
    monkeypatch.setattr(imtok.nn.efflite0, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"^objective\.losses\.efflite0 has judged this run so far"):
        run_tiny(tmp_path, *FOUND, "judges=found", "image_size=32", "trainer.max_steps=2", "ckpt=last")


def test_a_run_that_has_saved_no_step_begins_with_what_is_found_now(tmp_path, absent):
    (tmp_path / "run.json").write_text(json.dumps({"left_out": {"objective.losses.efflite0": "it was not there"}}))
    assert left_out_so_far(tmp_path, "last") is None
    (tmp_path / "checkpoints" / "step_1").mkdir(parents=True)
    assert left_out_so_far(tmp_path, "last") == {"objective.losses.efflite0": "it was not there"}


def test_processes_that_found_different_judges_or_precisions_are_refused(monkeypatch):
    key, nobody = "objective.losses.efflite0", list[str]()

    def among(*found: tuple[list[str], str]) -> None:
        monkeypatch.setattr(imtok.training.alike, "gather_values", lambda _: list(found))
        Alike(*found[0]).setup(Trainer(logger=False), LightningModule(), "fit")

    among(([key], "bf16"), ([key], "bf16"))
    with pytest.raises(
        InputError, match=rf"^{key}: its weights are missing on the machines of processes \[0\] and are"
    ):
        among(([key], "fp32"), (nobody, "fp32"))
    with pytest.raises(InputError, match=r"^trainer\.precision=auto is bf16 in process 0 and not in all others"):
        among((nobody, "bf16"), (nobody, "fp32"))


def test_judges_are_required_unless_a_config_says_otherwise(tmp_path, absent):
    with pytest.raises(InputError, match=r"objective\.losses\.efflite0\.weights=PATH"):
        run_tiny(tmp_path, *FOUND)
    assert not (tmp_path / "run.json").exists()
