"""A run that was stopped and went on is, bit for bit, the run that was never stopped."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from training.runs import run_tiny, state_of, tiny_run, weights_of

from imtok.errors import InputError
from imtok.training import folder as run_folder
from imtok.training.folder import find_checkpoint
from imtok.training.run import train


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight") / "run"
    run_tiny(folder)
    return folder


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop", [1, 9, 13])  # 9: in the middle of an interval of the log, and at an epoch's end
def test_resumed_run_equals_the_uninterrupted_one(straight, tmp_path, stop, workers):
    outcome = run_tiny(tmp_path / "run", f"trainer.stop_at={stop}", f"trainer.workers={workers}")
    assert outcome.step == stop
    assert outcome.report is None
    assert not (tmp_path / "run/tokenizer").exists()
    outcome = run_tiny(tmp_path / "run", "ckpt=last", f"trainer.workers={workers}")
    assert outcome.step == 14
    assert state_of(tmp_path / "run") == state_of(straight)
    assert weights_of(tmp_path / "run") == weights_of(straight)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")
def test_going_on_again_and_again_from_every_step_equals_one_run(straight, tmp_path):
    for stop, workers in zip(range(1, 14), [0, 0, 2, 0, 3, 0, 0, 2, 0, 0, 0, 2, 0], strict=True):
        run_tiny(tmp_path / "run", "ckpt=last", f"trainer.stop_at={stop}", f"trainer.workers={workers}")
    run_tiny(tmp_path / "run", "ckpt=last")
    assert state_of(tmp_path / "run") == state_of(straight)


def test_how_often_it_is_saved_or_logged_changes_nothing(straight, tmp_path):
    run_tiny(tmp_path / "run", "trainer.save_every=2", "trainer.pictures_every=5")
    assert state_of(tmp_path / "run") == state_of(straight)


def test_a_run_lets_go_of_the_checkpoint_that_it_has_taken(straight, tmp_path, monkeypatch):
    found = []

    def noted(*arguments):
        found.append(find_checkpoint(*arguments))
        return found[-1]

    run_tiny(tmp_path / "run", "trainer.stop_at=5")
    monkeypatch.setattr(run_folder, "find_checkpoint", noted)
    run_tiny(tmp_path / "run", "ckpt=last")
    assert [(one.model, one.ema, one.state) for one in found] == [({}, {}, {})]
    assert state_of(tmp_path / "run") == state_of(straight)


def test_another_seed_is_another_run(straight, tmp_path):
    run_tiny(tmp_path / "run", "seed=1")
    assert weights_of(tmp_path / "run") != weights_of(straight)


def test_a_finished_run_is_left_alone(straight):
    before = {path: path.read_bytes() for path in sorted(straight.rglob("*")) if path.is_file()}
    outcome = run_tiny(straight, "ckpt=last")
    assert outcome.finished_before
    assert {path: path.read_bytes() for path in sorted(straight.rglob("*")) if path.is_file()} == before


def test_the_summary_of_a_shorter_run_does_not_end_a_longer_one(straight, tmp_path):
    shutil.copytree(straight, tmp_path / "run")
    path = tmp_path / "run" / "summary.json"
    known = json.loads(path.read_text())
    path.write_text(json.dumps({**known, "steps": known["steps"] - 4}))  # killed before it wrote another
    outcome = run_tiny(tmp_path / "run", "ckpt=last")
    assert not outcome.finished_before
    assert json.loads(path.read_text()) == known


@pytest.mark.parametrize(
    "change",
    [
        "optimizer.lr=0.5",
        "trainer.batch_size=2",
        "seed=3",
        "quantizer.codebook_size=64",
        "data.crops_per_photo=3",
        "image_size=32",
        "encoder.width=32",
        "objective.losses.l2.weight=0.5",
        "trainer.precision=bf16",
        "ema.decay=0.5",
        "trainer.max_steps=13",
        "quantizer.dim=4",
    ],
)
def test_a_changed_config_is_refused_with_old_and_new(tmp_path, change, straight):
    key, _, value = change.partition("=")
    before = {path: path.stat().st_mtime_ns for path in sorted(straight.rglob("*"))}
    with pytest.raises(InputError, match=rf"{key}: \S+ -> {value}[\s\S]*allow_change=\[{key}\]"):
        run_tiny(straight, "ckpt=last", change)
    assert {path: path.stat().st_mtime_ns for path in sorted(straight.rglob("*"))} == before


def test_an_allowed_change_goes_on(tmp_path):
    run_tiny(tmp_path / "run", "trainer.stop_at=3")
    outcome = run_tiny(tmp_path / "run", "ckpt=last", "optimizer.lr=0.01", "allow_change=[optimizer]")
    assert outcome.step == 14


def test_a_folder_with_another_run_is_refused(straight):
    with pytest.raises(InputError, match="already holds a run; give another folder, or ckpt=last"):
        run_tiny(straight)


def test_weights_alone_start_a_new_run(straight, tmp_path):
    run = tiny_run(tmp_path / "run", f"init_from={straight}", "trainer.max_steps=1", "optimizer.lr=1e-12")
    outcome = train(run)
    assert outcome.step == 1
    assert outcome.report is not None
    before, after = (load_file(path / "tokenizer/model.safetensors") for path in (straight, tmp_path / "run"))
    for name in before.keys() - {"quantizer.usage", "quantizer.restarts", "quantizer.weight"}:
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-9)
    kept = (after["quantizer.weight"] - before["quantizer.weight"]).abs().amax(1) < 1e-9
    assert kept.float().mean() > 0.5  # the others were dead and were drawn anew


def test_weights_that_do_not_fit_are_refused(straight, tmp_path):
    with pytest.raises(InputError, match=r"init_from=.* other parts .*encoder.width 16 there, 32 here"):
        run_tiny(tmp_path / "run", f"init_from={straight}", "encoder.width=32")
    assert not (tmp_path / "run").exists()
