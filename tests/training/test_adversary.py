"""Training with an adversary: who learns when, from whom, and the same over ranks, micro-batches and interruptions."""

import csv
import json

import pytest
import torch
from training.gan import gan_run
from training.launch import Launched, launch_ranks

from imtok.training.checkpoints import load
from imtok.training.records import SPEED
from imtok.training.run import train
from imtok.training.task import TokenizerTask

STEPS = ("trainer.max_steps=20", "trainer.batch_size=6", "trainer.log_every=2", "optimizer.critic.lr=5e-4")


def everything(folder, step=20):
    checkpoint = load(folder / "checkpoints" / f"step_{step}")
    found = {f"model.{name}": value for name, value in checkpoint.model.items()}
    found |= {f"ema.{name}": value for name, value in checkpoint.ema.items()}
    for index, optimizer in enumerate(checkpoint.state["optimizers"]):
        for name, state in optimizer["state"].items():
            found |= {f"optimizer{index}.{name}.{key}": value for key, value in state.items()}
    return found


def rows(folder):
    with (folder / "metrics.csv").open() as file:
        return [{n: float(v) for n, v in row.items() if v and n not in SPEED} for row in csv.DictReader(file)]


def assert_same(folder, other, tolerance=1e-9):
    left, right = everything(folder), everything(other)
    assert left.keys() == right.keys()
    for name, value in left.items():
        torch.testing.assert_close(
            right[name], value, rtol=tolerance, atol=tolerance, msg=lambda t, name=name: name + t
        )
    for row, expected in zip(rows(folder), rows(other), strict=True):
        assert row == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.fixture
def watched(monkeypatch):
    """What happened in each step: the critic's weights after it, and gradients before the optimisers moved."""
    seen = {"weights": [], "critic": []}
    original = TokenizerTask._finish_step

    def finish(task):
        seen["critic"].append([p.grad for p in task.objective.critic.parameters()])
        original(task)
        seen["weights"].append([p.detach().clone() for p in task.objective.critic.critic.parameters()])

    monkeypatch.setattr(TokenizerTask, "_finish_step", finish)
    return seen


def test_the_critic_stands_still_before_its_start_and_then_takes_every_step(tmp_path, watched):
    """An optimiser that has stepped on zero losses before takes a first real step that is 6.6 times too long."""
    train(gan_run(tmp_path / "run", "everything", *STEPS))
    steps = watched["weights"]
    for step in range(1, 4):
        assert all(torch.equal(a, b) for a, b in zip(steps[step], steps[0], strict=True))
        assert all(gradient is None for gradient in watched["critic"][step])
    for step in range(4, 20):
        assert not all(torch.equal(a, b) for a, b in zip(steps[step], steps[step - 1], strict=True))
    checkpoint = load(tmp_path / "run/checkpoints/step_20")
    counts = [
        {int(values["step"]) for values in optimizer["state"].values()} for optimizer in checkpoint.state["optimizers"]
    ]
    assert counts == [{20}, {16}]
    assert checkpoint.model["objective.critic.updates"] == 16


def test_the_log_tells_when_each_begins_and_with_what_weight(tmp_path):
    train(gan_run(tmp_path / "run", "everything", *STEPS, "trainer.log_every=1"))
    log = rows(tmp_path / "run")
    assert [row["step"] for row in log if "critic" in row] == list(range(5, 21))
    assert [row["step"] for row in log if "adversarial" in row] == list(range(8, 21))
    assert [row["step"] for row in log if "r1" in row] == [5, 8, 11, 14, 17, 20]
    ramp = [row["adversarial_weighted"] / row["adversarial"] for row in log if row.get("adversarial")]
    assert ramp[:5] == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.5])
    for row in log:
        if "adversarial_raw" in row:
            assert row["adversarial"] == pytest.approx(row["adversarial_raw"] * row["adversarial_balance"], rel=1e-5)
            parts = (
                row["l1"] + row["l2_weighted"] + row["codebook"] + row["commit_weighted"] + row["adversarial_weighted"]
            )
            assert row["loss"] == pytest.approx(parts, rel=1e-5)
        if "critic" in row:
            assert row["gradient_norm_critic"] > 0


def test_a_term_of_some_steps_is_a_mean_over_these(tmp_path):
    train(gan_run(tmp_path / "often", "everything", *STEPS, "trainer.log_every=1"))
    train(gan_run(tmp_path / "seldom", "everything", *STEPS, "trainer.log_every=20"))
    each = rows(tmp_path / "often")
    (whole,) = rows(tmp_path / "seldom")
    for name in ("r1", "critic", "adversarial", "l1"):
        values = [row[name] for row in each if name in row]
        assert whole[name] == pytest.approx(sum(values) / len(values), rel=1e-5)


def test_the_critics_optimiser_has_settings_of_its_own(tmp_path):
    given = ("optimizer.critic.betas=[0.5,0.9]", "optimizer.critic.weight_decay=0.3")
    run = gan_run(tmp_path / "run", "fixed", *STEPS, *given)
    task = TokenizerTask(run.tokenizer, run.objective, lambda *_: None, run.trainer, run.optimizer)
    tokenizer, critic = task.configure_optimizers()
    assert {group["betas"] for group in tokenizer.param_groups} == {(0.9, 0.95)}
    assert {group["betas"] for group in critic.param_groups} == {(0.5, 0.9)}
    assert {group["weight_decay"] for group in tokenizer.param_groups} == {0.1, 0.0}
    assert {group["weight_decay"] for group in critic.param_groups} == {0.3, 0.0}
    rates = []
    original = TokenizerTask._finish_step
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            TokenizerTask,
            "_finish_step",
            lambda task: (original(task), rates.append([o.param_groups[0]["lr"] for o in task.optimizers()])),
        )
        train(run)
    assert all(critic == pytest.approx(tokenizer * 5e-4 / 2e-3) for tokenizer, critic in rates)


def test_resumed_runs_are_bit_for_bit_those_that_never_stopped(tmp_path):
    """With LeCam's means, the critic's optimiser and a ramp that is under way."""
    train(gan_run(tmp_path / "straight", "everything", *STEPS))
    for stop in (3, 9):
        train(gan_run(tmp_path / str(stop), "everything", *STEPS, f"trainer.stop_at={stop}"))
        train(gan_run(tmp_path / str(stop), "everything", *STEPS, "ckpt=last"))
        left, right = everything(tmp_path / "straight"), everything(tmp_path / str(stop))
        assert left.keys() == right.keys()
        assert "model.objective.critic.means" in left
        for name, value in left.items():
            assert torch.equal(right[name], value), name
        assert rows(tmp_path / str(stop)) == rows(tmp_path / "straight")


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """The same runs in one process and in two, and in micro-batches."""
    root = tmp_path_factory.mktemp("gan")
    runs = {name: [*STEPS] for name in ("fixed", "everything")}
    split = {f"fixed.{k}": [*STEPS, f"trainer.accumulate={k}"] for k in (2, 3)}
    lecam = {"lecam": [*STEPS], "lecam.3": [*STEPS, "trainer.accumulate=3"]}
    for world, wanted in ((1, {**runs, **split, **lecam}), (2, {**runs, "fixed.3": split["fixed.3"]})):
        arguments = [str(root / str(world)), wanted]
        if world == 1:
            processes = [Launched("training.gan:train_gans", arguments, root / "one.log")]
        else:
            processes = launch_ranks(world, "training.gan:train_gans", arguments, root / "two")
        codes = [process.wait(300) for process in processes]
        assert codes == [0] * world, "\n".join(process.output for process in processes)
    return root


@pytest.mark.parametrize("name", ["fixed", "everything"])
def test_two_ranks_train_like_one_process(compared, name):
    """Adaptive weight, LeCam, R1 and a late start among them: the gradients are averaged before their norms."""
    assert_same(compared / "2" / name, compared / "1" / name)


@pytest.mark.parametrize("name", ["1/fixed.2", "1/fixed.3", "2/fixed.3", "1/lecam.3"])
def test_micro_batches_train_like_one_big_batch(compared, name):
    assert_same(compared / name, compared / "1" / name.split("/")[1].split(".")[0])


def test_gradients_are_exchanged_once_per_step_and_no_others(tmp_path):
    processes = launch_ranks(2, "training.gan:count_bytes", [str(tmp_path)], tmp_path / "ranks")
    assert [process.wait(300) for process in processes] == [0, 0], "\n".join(one.output for one in processes)
    for rank in (0, 1):
        found = json.loads((tmp_path / f"bytes_{rank}.json").read_text())
        assert found["sent"] == {key: 3 * number for key, number in found["learnt"].items()}
