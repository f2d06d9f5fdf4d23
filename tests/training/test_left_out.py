"""A run says which judges it is without, and goes on with the same ones."""

import json
import logging

import pytest
from training.runs import losses_of, run_tiny

import imtok.nn.efflite0
from imtok.errors import InputError

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
    run_tiny(tmp_path, *FOUND, "judges=found", "trainer.max_steps=4", "ckpt=last")
    run_tiny(tmp_path.with_name("whole"), "trainer.max_steps=4", "trainer.save_every=2")
    assert losses_of(tmp_path) == losses_of(tmp_path.with_name("whole"))
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["left_out"] == ["objective.losses.efflite0"]


def test_a_judge_that_is_gone_is_refused_and_not_left_out_halfway(tmp_path, monkeypatch):
    run_tiny(tmp_path, *FOUND, "judges=found", "image_size=32", "trainer.max_steps=2", "trainer.stop_at=1")
    assert "left_out" not in json.loads((tmp_path / "run.json").read_text())
    monkeypatch.setattr(imtok.nn.efflite0, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"^objective\.losses\.efflite0 has judged this run so far"):
        run_tiny(tmp_path, *FOUND, "judges=found", "image_size=32", "trainer.max_steps=2", "ckpt=last")


def test_judges_are_required_unless_a_config_says_otherwise(tmp_path, absent):
    with pytest.raises(InputError, match=r"objective\.losses\.efflite0\.weights=PATH"):
        run_tiny(tmp_path, *FOUND)
    assert not (tmp_path / "run.json").exists()
