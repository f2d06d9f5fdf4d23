"""Lightning's callbacks in a run of imtok: they see its steps and evaluations, and their states outlive a stop."""

import json
import sys
import types
from typing import ClassVar

import pytest
import torch
from lightning import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from training.runs import run_tiny, state_of, tiny_run

from imtok.config import check_command
from imtok.errors import InputError
from imtok.training.callbacks import build_callbacks, check_monitors
from imtok.training.checkpoints import load
from imtok.training.run import train

SHORT = (
    *("trainer.max_steps=8", "trainer.log_every=2", "trainer.save_every=2", "trainer.keep=9"),
    *("trainer.evaluate_every=2", "trainer.evaluate_images=4", "trainer.evaluate_metrics=[psnr]"),
)
STOPPING = (
    *("callback=early_stopping", "callback.early_stopping.patience=2"),
    "+callback.early_stopping.min_delta=100.0",  # nothing is ever better by so much: the third evaluation is the last
)


class Diary(Callback):
    """A callback of one's own, which counts over the whole run."""

    last: "Diary | None" = None

    def __init__(self, ask_at=0):
        self.ask_at, self.seen, self.batches, self.steps, self.rows = ask_at, [], 0, [], []
        Diary.last = self

    def setup(self, trainer, pl_module, stage):
        self.batches = 0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.steps.append((trainer.global_step, trainer.fit_loop.epoch_loop._batches_that_stepped))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.batches += 1
        self.rows.append(sorted(trainer.callback_metrics))
        if self.ask_at and self.batches == self.ask_at:
            trainer.should_stop = True

    def on_validation_start(self, trainer, pl_module):
        self.seen.append("start")

    def on_validation_epoch_start(self, trainer, pl_module):
        self.seen.append("epoch start")

    def on_validation_epoch_end(self, trainer, pl_module):
        self.seen.append("epoch end")

    def on_validation_end(self, trainer, pl_module):
        self.seen.append((trainer.global_step, float(trainer.callback_metrics["psnr"])))

    def state_dict(self):
        return {"batches": self.batches, "seen": [one for one in self.seen if isinstance(one, tuple)]}

    def load_state_dict(self, state_dict):
        self.batches, self.seen = state_dict["batches"], list(state_dict["seen"])


class Opaque(Callback):
    def state_dict(self):
        return {"what": object()}


@pytest.fixture(autouse=True)
def package(monkeypatch):
    mine = types.ModuleType("mine_callbacks")
    mine.Diary, mine.Opaque, mine.function = Diary, Opaque, print
    monkeypatch.setitem(sys.modules, "mine_callbacks", mine)


DIARY = "+callback.diary={_target_:mine_callbacks.Diary}"


def test_a_callback_of_ones_own_sees_a_whole_run_however_often_it_stops(tmp_path):
    given = (*SHORT, DIARY, "trainer.accumulate=2")
    run_tiny(tmp_path / "straight", *given)
    straight = Diary.last
    assert straight.batches == 16
    assert straight.steps == [(step, step + 1) for step in range(8) for _ in range(2)]
    hooks = [one for one in straight.seen if isinstance(one, str)]
    assert hooks == ["start", "epoch start", "epoch end"] * 4
    numbers = [one for one in straight.seen if isinstance(one, tuple)]
    assert [step for step, _ in numbers] == [2, 4, 6, 8]
    assert "loss" in straight.rows[3]
    run_tiny(tmp_path / "halves", *given, "trainer.stop_at=3")
    run_tiny(tmp_path / "halves", *given, "trainer.stop_at=4", "ckpt=last")
    run_tiny(tmp_path / "halves", *given, "ckpt=last")
    assert Diary.last.batches == 16
    assert Diary.last.state_dict() == straight.state_dict()
    assert state_of(tmp_path / "halves", 8) == state_of(tmp_path / "straight", 8)
    stored = load(tmp_path / "halves/checkpoints/step_8").state["callbacks"]
    assert stored == load(tmp_path / "straight/checkpoints/step_8").state["callbacks"]


def test_patience_survives_a_stop_and_the_run_ends_with_all_its_results(tmp_path):
    run_tiny(tmp_path / "run", *SHORT, *STOPPING, "trainer.stop_at=4")
    outcome = run_tiny(tmp_path / "run", *SHORT, *STOPPING, "ckpt=last")
    assert outcome.step == 6
    assert outcome.report is not None
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert (summary["steps"], summary["stopped_at"]) == (6, 6)
    assert (tmp_path / "run/tokenizer/config.json").exists()
    events = [json.loads(line)["event"] for line in (tmp_path / "run/events.jsonl").read_text().splitlines()]
    assert events[-2:] == ["stop", "end"]
    assert run_tiny(tmp_path / "run", *SHORT, *STOPPING, "ckpt=last").finished_before
    patient = ("callback.early_stopping.patience=9", "allow_change=[callback]")
    assert run_tiny(tmp_path / "run", *SHORT, *STOPPING, *patient, "ckpt=last").step == 8


def test_a_run_that_was_killed_before_it_could_end_ends_when_it_goes_on(tmp_path):
    """At step 6 patience is over: the checkpoint of that step is there, and what comes after it is not."""
    run_tiny(tmp_path / "run", *SHORT, *STOPPING, "trainer.stop_at=6")
    outcome = run_tiny(tmp_path / "run", *SHORT, *STOPPING, "ckpt=last")
    assert outcome.step == 6
    assert outcome.report is not None


def test_a_callback_that_asks_within_a_step_ends_the_run_after_it(tmp_path):
    ask = "+callback.diary={_target_:mine_callbacks.Diary,ask_at:5}"
    outcome = run_tiny(tmp_path / "run", "trainer.max_steps=6", "trainer.accumulate=2", ask)
    assert outcome.step == 3
    assert (tmp_path / "run/checkpoints/step_3").exists()


@pytest.mark.parametrize(
    "name",
    [
        *("ModelCheckpoint", "WeightAveraging", "EMAWeightAveraging", "StochasticWeightAveraging", "BatchSizeFinder"),
        *("GradientAccumulationScheduler", "LearningRateFinder", "TQDMProgressBar", "BackboneFinetuning"),
        *("OnExceptionCheckpoint", "RichProgressBar"),
    ],
)
def test_what_imtok_does_itself_is_refused_by_name(name):
    section = {"_target_": f"lightning.pytorch.callbacks.{name}"}
    with pytest.raises(InputError, match=f"callback.mine: imtok does the work of {name} itself: "):
        build_callbacks({"mine": section})


def test_subclasses_of_these_are_refused_too(monkeypatch):
    mine = type("Mine", (ModelCheckpoint,), {})
    monkeypatch.setattr(sys.modules["mine_callbacks"], "Mine", mine, raising=False)
    with pytest.raises(InputError, match="imtok does the work of Mine itself"):
        build_callbacks({"mine": {"_target_": "mine_callbacks.Mine"}})


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"_target_": "mine_callbacks.function"}, "must name a subclass of lightning.pytorch.callbacks.callback"),
        ({"_target_": "torch.nn.Linear"}, "must name a subclass of lightning.pytorch.callbacks.callback.Callback"),
        ({"_target_": "mine_callbacks.Opaque"}, "the state_dict of Opaque must hold numbers, texts and tensors"),
        ({"_target_": "mine_callbacks.Diary", "moode": 1}, "callback.x: Diary: "),
    ],
)
def test_what_is_no_callback_of_a_run_is_refused(section, message):
    with pytest.raises(InputError, match=message):
        build_callbacks({"x": section})


@pytest.mark.parametrize(
    ("monitor", "mode", "every", "message"),
    [
        ("psnr", "min", 5, "callback.x.mode must be max, since a larger psnr is better, got min"),
        ("lpips", "max", 5, "callback.x.mode must be min, since a smaller lpips is better, got max"),
        ("val_loss", "min", 5, "callback.x.monitor=val_loss is not among what is measured: psnr, lpips, loss"),
        ("psnr", "max", 0, "callback.x looks at psnr after each evaluation, and there are none: give trainer.evaluate"),
    ],
)
def test_what_a_callback_monitors_is_checked_before_the_run(monitor, mode, every, message):
    section = {"_target_": "lightning.pytorch.callbacks.EarlyStopping", "monitor": monitor, "mode": mode}
    with pytest.raises(InputError, match=message):
        check_monitors(build_callbacks({"x": section}), {"psnr": True, "lpips": False} if every else {}, every)


def test_a_monitor_without_a_logger_is_refused_in_one_line_and_the_folder_is_given_back(tmp_path):
    with pytest.raises(
        InputError, match=r"Cannot use `LearningRateMonitor` callback with `Trainer` that has no logger"
    ):
        run_tiny(tmp_path / "run", "trainer.max_steps=2", "callback=lr")
    assert not (tmp_path / "run").exists()


def test_a_callback_that_comes_or_goes_is_a_change_of_the_run(tmp_path):
    run_tiny(tmp_path / "run", "trainer.max_steps=3", "trainer.stop_at=1")
    with pytest.raises(InputError, match=r"callback\.diary\._target_: None -> mine_callbacks\.Diary"):
        run_tiny(tmp_path / "run", "trainer.max_steps=3", "ckpt=last", DIARY)
    changed = ("trainer.max_steps=3", "ckpt=last", DIARY, "allow_change=[callback]")
    assert run_tiny(tmp_path / "run", *changed).step == 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+callback.x=3", "callback.x: it has no _target_, so nothing can build it; ~callback.x removes it"),
        ("+callback.x={_target_:os.system}", "callback.x._target_ must name a subclass of lightning.pytorch.callbacks"),
        ("callback.patience=3", "callback.patience: no such key"),
    ],
)
def test_mistakes_are_named_with_the_config(override, message):
    with pytest.raises(InputError) as caught:
        check_command("train", [override])
    assert message in str(caught.value)


def test_the_learning_rate_is_that_of_the_step_when_a_callback_looks(tmp_path):
    class Look(Callback):
        rates: ClassVar[list[float]] = []

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            Look.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    sys.modules["mine_callbacks"].Look = Look
    run = tiny_run(tmp_path, "+callback.look={_target_:mine_callbacks.Look}", "trainer.max_steps=4")
    train(run)
    assert Look.rates == [run.optimizer.rate(step, 4) for step in range(4)]
    assert all(isinstance(rate, float) and torch.isfinite(torch.tensor(rate)) for rate in Look.rates)
