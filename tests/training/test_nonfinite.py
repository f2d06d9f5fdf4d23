"""A step that met NaN or infinity changes nothing: neither weights, optimisers and codebook nor averages."""

from dataclasses import replace

import pytest
import torch
from training.critics import adversarial_run
from training.runs import tiny_run

from imtok.errors import InputError
from imtok.training.checkpoints import load
from imtok.training.run import train
from imtok.training.task import TokenizerTask
from imtok.types import Losses

AT = 5


def damage_latents(task, batch, value):
    weight = next(task.tokenizer.encoder.parameters())
    kept = weight.data.view(-1)[0].item()
    weight.data.view(-1)[0] = value
    return lambda: weight.data.view(-1)[0].fill_(kept)


def damage_codebook(task, batch, value):
    weight = task.tokenizer.quantizer.weight
    kept = weight.data[0].clone()
    weight.data[0] = value
    return lambda: weight.data[0].copy_(kept)


def damage_loss(task, batch, value):
    original = task.objective.forward

    def forward(*args):
        losses = original(*args)
        return Losses(losses.total * value, losses.terms, losses.shown)

    task.objective.forward = forward
    return lambda: task.objective.__dict__.pop("forward")


def damage_gradient(task, batch, value):
    parameter = task.tokenizer.decoder.last_layer
    handle = parameter.register_hook(lambda gradient: gradient * value)
    return handle.remove


def damage_critic_gradient(task, batch, value):
    handle = task.objective.critic[0].weight.register_hook(lambda gradient: gradient * value)
    return handle.remove


def damage_critic_loss(task, batch, value):
    original = task.objective.critic_loss

    def damaged(*args):
        losses = original(*args)
        return replace(losses, total=losses.total + value)

    task.objective.critic_loss = damaged
    return lambda: task.objective.__dict__.pop("critic_loss")


def strike(monkeypatch, damage, value, steps=(AT,)):
    """Damage some steps; yields the state before and after each of them."""
    before, after, names = [], [], []
    original, finish = TokenizerTask.training_step, TokenizerTask._finish_step

    def training_step(task, batch, batch_idx):
        if task.step not in steps:
            return original(task, batch, batch_idx)
        names.extend(batch.key)
        repair = damage(task, batch, value)
        task._repair = repair
        return original(task, batch, batch_idx)

    def finish_step(task):
        if task.step not in steps:
            return finish(task)
        task._repair()
        before.append(state(task))
        try:
            return finish(task)
        finally:
            after.append(state(task))

    monkeypatch.setattr(TokenizerTask, "training_step", training_step)
    monkeypatch.setattr(TokenizerTask, "_finish_step", finish_step)
    return before, after, names


def state(task):
    found = {name: value.clone() for name, value in task.state_dict().items()}
    optimizers = task.optimizers(use_pl_optimizer=False)
    for index, optimizer in enumerate(optimizers if isinstance(optimizers, list) else [optimizers]):
        for number, values in optimizer.state_dict()["state"].items():
            found |= {f"{index}.{number}.{name}": value.clone() for name, value in values.items()}
    return found


CASES = [
    (damage_latents, "nan"),
    (damage_latents, "inf"),
    (damage_codebook, "nan"),
    (damage_loss, "nan"),
    (damage_loss, "inf"),
    (damage_gradient, "nan"),
    (damage_gradient, "inf"),
    (damage_critic_gradient, "nan"),
    (damage_critic_loss, "inf"),
]


@pytest.mark.parametrize(("damage", "value"), CASES)
def test_a_damaged_step_changes_nothing_and_is_counted(tmp_path, monkeypatch, caplog, damage, value):
    before, after, names = strike(monkeypatch, damage, float(value))
    make = adversarial_run if "critic" in damage.__name__ else tiny_run
    outcome = train(make(tmp_path / "run", "trainer.save_every=1", "trainer.keep=99", "trainer.max_steps=8"))
    assert outcome.step == 8
    assert before[0].keys() == after[0].keys()
    for name, tensor in before[0].items():
        torch.testing.assert_close(after[0][name], tensor, rtol=0, atol=0, msg=name)
    last, skipped, following = (load(tmp_path / f"run/checkpoints/step_{step}") for step in (AT, AT + 1, AT + 2))
    for name, tensor in last.ema.items():
        torch.testing.assert_close(skipped.ema[name], tensor, rtol=0, atol=0, msg=name)
    assert skipped.state["ema_updates"] == last.state["ema_updates"] == AT
    assert following.state["ema_updates"] == AT + 1
    assert (last.state["skipped"], skipped.state["skipped"]) == ([0, 0], [1, 1])
    assert following.state["skipped"] == [1, 0]
    assert f"step {AT}: a loss or gradient was NaN or infinite" in caplog.text
    assert all(name in caplog.text for name in names)
    assert any((following.model[name] != tensor).any() for name, tensor in skipped.model.items())


def test_too_many_in_a_row_stop_the_run_with_the_names_and_a_whole_checkpoint(tmp_path, monkeypatch):
    _, _, names = strike(monkeypatch, damage_loss, float("nan"), steps=(3, 5, 6, 7))
    with pytest.raises(InputError, match=r"Stopped after 3 such steps in a row \(trainer.skip_nonfinite\)") as stopped:
        train(tiny_run(tmp_path / "run", "trainer.skip_nonfinite=2", "trainer.save_every=4"))
    assert all(name in str(stopped.value) for name in names[-4:])
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step_4"]
    assert '"event": "error"' in (tmp_path / "run/events.jsonl").read_text()


def rows(folder):
    header, *lines = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
    return [dict(zip(header, line, strict=True)) for line in lines]


@pytest.mark.parametrize("kind", ["one optimiser", "two optimisers", "second starts late", "accumulated"])
def test_every_counter_goes_up_by_one_a_step(tmp_path, kind):
    """Lightning's own counts both optimisers."""
    given = ["trainer.save_every=5", "trainer.keep=9", "trainer.log_every=1", "ema.decay=0.9"]
    if kind == "one optimiser":
        run = tiny_run(tmp_path / "run", *given)
    else:
        more = ["trainer.accumulate=2"] if kind == "accumulated" else []
        run = adversarial_run(tmp_path / "run", *given, *more, start=6 if kind == "second starts late" else 0)
    assert train(run).step == 14
    assert [int(row["step"]) for row in rows(tmp_path / "run")] == list(range(1, 15))
    assert sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir()) == ["step_10", "step_14", "step_5"]
    for step in (5, 10, 14):
        assert load(tmp_path / f"run/checkpoints/step_{step}").state["ema_updates"] == step
    rates = [float(row["lr"]) / run.optimizer.lr for row in rows(tmp_path / "run")]
    assert rates[:3] == pytest.approx([1 / 3, 2 / 3, 1])
    assert rates[3] == pytest.approx(1)
    assert rates[-1] == pytest.approx(0.5 * (1 + torch.cos(torch.tensor(10 / 11 * torch.pi)).item()), rel=1e-5)
    last = load(tmp_path / "run/checkpoints/step_14").state["optimizers"]
    counts = [{int(values["step"]) for values in optimizer["state"].values()} for optimizer in last]
    assert (
        counts
        == {
            "one optimiser": [{14}],
            "two optimisers": [{14}, {14}],
            "second starts late": [{14}, {8}],
            "accumulated": [{14}, {14}],
        }[kind]
    )


def test_the_critics_loss_does_not_reach_the_tokenizer_nor_the_other_way_round(tmp_path, monkeypatch):
    gradients = {}
    original, backward = TokenizerTask._finish_step, TokenizerTask.backward_of

    def finish(task):
        if task.step == 0:
            gradients["critic"] = [parameter.grad.clone() for parameter in task.objective.critic.parameters()]
            gradients["tokenizer"] = [p.grad.clone() for p in task.tokenizer.parameters() if p.grad is not None]
        original(task)

    def run(name, objective_only):
        gradients.clear()
        with monkeypatch.context() as patched:
            patched.setattr(TokenizerTask, "_finish_step", finish)
            if objective_only is not None:
                patched.setattr(TokenizerTask, "backward_of", objective_only)
            train(adversarial_run(tmp_path / name, "trainer.max_steps=1", "trainer.accumulate=2"))
        return dict(gradients)

    both = run("both", None)
    calls = [0]

    def only_critic(task, loss, besides=False):
        calls[0] += 1
        backward(task, loss if calls[0] % 2 == 0 else loss * 0, besides)

    alone = run("critic", only_critic)
    for left, right in zip(both["critic"], alone["critic"], strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=0)
    calls[0] = 0

    def only_tokenizer(task, loss, besides=False):
        calls[0] += 1
        backward(task, loss if calls[0] % 2 == 1 else loss * 0, besides)

    alone = run("tokenizer", only_tokenizer)
    for left, right in zip(both["tokenizer"], alone["tokenizer"], strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=0)
    assert any(gradient.abs().max() > 0 for gradient in both["critic"])


@pytest.mark.parametrize("start", [0, 9])
def test_a_run_with_a_critic_resumes_bit_for_bit(tmp_path, start):
    """A checkpoint before the critic's first step must not count as one."""
    train(adversarial_run(tmp_path / "straight", start=start))
    train(adversarial_run(tmp_path / "run", "trainer.stop_at=6", start=start))
    train(adversarial_run(tmp_path / "run", "ckpt=last", start=start))
    left, right = (load(tmp_path / name / "checkpoints/step_14") for name in ("straight", "run"))
    for name, value in left.model.items():
        torch.testing.assert_close(right.model[name], value, rtol=0, atol=0)
    for one, other in zip(left.state["optimizers"], right.state["optimizers"], strict=True):
        for name, values in one["state"].items():
            for key, value in values.items():
                torch.testing.assert_close(other["state"][name][key], value, rtol=0, atol=0)
