"""Every run says soon how long it takes, and its numbers do not change by it."""

import logging
import re
from types import SimpleNamespace
from typing import Any

import pytest
from training.runs import run_tiny

import imtok.training.estimate
from imtok.training.estimate import Estimate
from imtok.training.task import TokenizerTask

GAN = (
    "+objective.adversary={_target_:imtok.losses.adversarial.Adversary,critic_start:4,generator_start:13,"
    "critic:{_target_:imtok.critics.patchgan.PatchGAN,channels:8,halvings:1}}"
)


def estimates(messages):
    return [line for line in messages if "left on this machine" in line]


@pytest.mark.parametrize("steps", [2, 14])
def test_a_run_says_once_what_it_will_take(steps, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    run_tiny(tmp_path, f"trainer.max_steps={steps}")
    (line,) = estimates(caplog.messages)
    assert re.fullmatch(
        rf"about 1 s left on this machine \(cpu with 1 thread\): {steps - min(11, steps - 1)} steps? of [\d.e-]+ s",
        line,
    )


def test_one_that_goes_on_says_what_is_left(tmp_path, caplog):
    run_tiny(tmp_path, "trainer.stop_at=4")
    caplog.clear()
    caplog.set_level(logging.INFO)
    run_tiny(tmp_path, "trainer.stop_at=7", "ckpt=last")
    (line,) = estimates(caplog.messages)
    assert ": 1 step of " in line  # 5, 6, and the last is left


def test_it_is_said_again_when_the_critic_is_there(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    run_tiny(tmp_path, GAN, "trainer.max_steps=30")
    first, second = estimates(caplog.messages)
    assert ": 19 steps of" in first
    assert first.endswith("; steps take longer from step 13 on, when the critic is looked at")
    assert ": 6 steps of" in second
    assert "longer" not in second


def told(monkeypatch, caplog, seconds, last=1000):
    """The steps after which a run whose steps take so long says its estimate."""
    caplog.set_level(logging.INFO)
    clock = [0.0]
    monkeypatch.setattr(imtok.training.estimate.time, "monotonic", lambda: clock[0])
    task = TokenizerTask.__new__(TokenizerTask)
    facts = {"step": 0, "stepped": True, "objective": SimpleNamespace(adversary=None), "last_step": last}
    monkeypatch.setattr(TokenizerTask, "last_step", last)
    task.__dict__ |= facts
    trainer: Any = SimpleNamespace(is_global_zero=True)
    estimate = Estimate("cpu")
    estimate.on_train_start(trainer, task)
    found = []
    for step in range(1, 20):
        clock[0] += seconds
        task.__dict__["step"] = step
        estimate.on_train_batch_end(trainer, task, None, None, step)
        found += [(step, estimates(caplog.messages)[-1])] if len(estimates(caplog.messages)) > len(found) else []
    return found


@pytest.mark.parametrize(
    ("seconds", "step", "said"),
    [(0.5, 11, "about 8 min left"), (6.0, 2, "about 1 h 40 min left"), (90.0, 1, "about 24 h 58 min left")],
)
def test_slow_steps_are_told_at_once(seconds, step, said, monkeypatch, caplog):
    ((at, line),) = told(monkeypatch, caplog, seconds)
    assert at == step
    assert line.startswith(said)
