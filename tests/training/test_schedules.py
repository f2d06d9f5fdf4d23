"""Learning rates as published: drops after so many epochs, and a critic that warms up when it begins."""

import csv

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from training.gan import SETTINGS, gan_run
from training.runs import run_tiny, state_of

from imtok.config import check_command, register_schemas
from imtok.errors import InputError
from imtok.folders import config_folder
from imtok.schedules import Exponential, drops
from imtok.training.checkpoints import load
from imtok.training.run import train
from imtok.training.settings import NetSettings, OptimizerSettings

IMAGENET = 1_281_167  # images of its training set
START = SETTINGS["everything"]["critic_start"]
STEPS = ("trainer.max_steps=16", "trainer.batch_size=4", "trainer.log_every=1")
OWN = ("optimizer.critic.lr=8e-4", "optimizer.critic.warmup_steps=4", "optimizer.critic.final_lr=0.25")
DROPS = ("optimizer.drop_at=[7,11]", "optimizer.drop_by=0.5")


def rows(folder):
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def optimizer_of(recipe):
    register_schemas()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose("train", overrides=[f"experiment={recipe}"])
    settings = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(OptimizerSettings), config.optimizer))
    return settings, config.trainer, config.objective.adversary


def test_drops_are_those_of_torchs_own_schedule():
    parameter = torch.nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([parameter], lr=0.3)
    reference = torch.optim.lr_scheduler.MultiStepLR(optimizer, [5, 9, 10], gamma=0.2)
    settings = OptimizerSettings(lr=0.3, warmup_steps=0, final_lr=1.0, drop_at=[5, 9, 10], drop_by=0.2)
    for step in range(15):
        assert settings.rate(step, 15) == pytest.approx(reference.get_last_lr()[0], rel=1e-12)
        optimizer.step()
        reference.step()


def test_drops_stand_beside_warm_up_and_cosine():
    plain = OptimizerSettings(lr=0.3, warmup_steps=4, final_lr=0.1)
    dropped = OptimizerSettings(lr=0.3, warmup_steps=4, final_lr=0.1, drop_at=[2, 8], drop_by=0.5)
    ratios = [dropped.rate(step, 12) / plain.rate(step, 12) for step in range(12)]
    assert ratios == pytest.approx([1] * 2 + [0.5] * 6 + [0.25] * 4)
    assert [drops(step, (), 0.1) for step in (0, 99)] == [1, 1]


def test_the_critics_own_schedule_is_that_of_a_run_that_begins_with_it():
    settings = OptimizerSettings(lr=1.0, warmup_steps=9, critic=NetSettings(lr=0.5, warmup_steps=4, final_lr=0.2))
    alone = OptimizerSettings(lr=0.5, warmup_steps=4, final_lr=0.2)
    rates = [settings.net_rate("critic", step, 50, 20) for step in range(20, 51)]
    assert rates == [alone.rate(step, 30) for step in range(31)]
    assert rates[:4] == pytest.approx([0.125, 0.25, 0.375, 0.5])
    assert max(rates) == 0.5
    assert rates[-1] == pytest.approx(0.1)
    assert all(settings.net_rate("critic", step, 50, 20) > 0 for step in range(20))  # where nothing uses it, it is sane


def test_without_a_warm_up_of_its_own_the_critic_follows_the_tokenizer():
    settings = OptimizerSettings(lr=1.0, warmup_steps=9, final_lr=0.1, drop_at=[30], critic=NetSettings(lr=0.5))
    for step in range(50):
        assert settings.net_rate("critic", step, 50, 20) == pytest.approx(settings.rate(step, 50) / 2)


def test_drops_come_to_the_critic_at_the_same_steps_of_the_run():
    """Open-MAGVIT2 drops both rates after an epoch, whenever its critic began."""
    critic = NetSettings(warmup_steps=2, final_lr=1.0)
    settings = OptimizerSettings(lr=1.0, warmup_steps=0, final_lr=1.0, drop_at=[30], critic=critic)
    assert [settings.net_rate("critic", step, 50, 20) for step in (20, 21, 29, 30, 49)] == [0.5, 1.0, 1.0, 0.1, 0.1]


@pytest.mark.parametrize("own", [True, False])
def test_a_run_uses_these_rates_and_logs_them(tmp_path, own):
    run = gan_run(tmp_path, "everything", *STEPS, *DROPS, *(OWN if own else ()))
    train(run)
    log = rows(tmp_path)
    assert len(log) == 16
    for row in log:
        step = int(row["step"]) - 1
        assert float(row["lr"]) == pytest.approx(run.optimizer.rate(step, 16), rel=1e-5)
        assert bool(row["lr_critic"]) == (step >= START)
        if step >= START:
            assert float(row["lr_critic"]) == pytest.approx(run.optimizer.net_rate("critic", step, 16, START), rel=1e-5)
    first = float(next(row["lr_critic"] for row in log if row["lr_critic"]))
    assert first == pytest.approx(8e-4 / 4 if own else float(log[START]["lr"]))


@pytest.mark.parametrize("stop", [6, 9])
def test_a_run_goes_on_bit_for_bit_across_drops_and_the_critics_warm_up(tmp_path, stop):
    given = (*STEPS, *DROPS, *OWN)
    train(gan_run(tmp_path / "straight", "everything", *given))
    train(gan_run(tmp_path / "halves", "everything", *given, f"trainer.stop_at={stop}"))
    train(gan_run(tmp_path / "halves", "everything", *given, "ckpt=last"))
    assert state_of(tmp_path / "halves", 16) == state_of(tmp_path / "straight", 16)


def test_a_drop_changes_the_step_that_it_names_and_none_before(tmp_path):
    for name, given in {"plain": (), "dropped": ("optimizer.drop_at=[6]",)}.items():
        run_tiny(tmp_path / name, "trainer.max_steps=8", "trainer.save_every=1", "trainer.keep=9", *given)
    plain, dropped = (
        [load(tmp_path / name / f"checkpoints/step_{step}").model for step in (6, 7)] for name in ("plain", "dropped")
    )
    same = [all(torch.equal(a[name], b[name]) for name in a) for a, b in zip(plain, dropped, strict=True)]
    assert same == [True, False]  # after the steps 0 to 5, and after the step 6


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["optimizer.drop_at=[800,1500]"],
            "optimizer.drop_at must be steps before trainer.max_steps=1500, got [800, 1500]; scale",
        ),
        (["optimizer.drop_at=[900,800]"], "optimizer.drop_at must be steps above 0 in ascending order, got [900, 800]"),
        (["optimizer.drop_at=[800,800]"], "optimizer.drop_at must be steps above 0 in ascending order, got [800, 800]"),
        (["optimizer.drop_at=[0]"], "optimizer.drop_at must be steps above 0 in ascending order, got [0]"),
        (["optimizer.drop_at=800"], "optimizer.drop_at: "),
        (["optimizer.drop_at=[8.5]"], "optimizer.drop_at"),
        (["optimizer.drop_by=1"], "optimizer.drop_by must be in (0, 1), what is left of the rate, got 1.0"),
        (
            ["optimizer.drop_by=10", "optimizer.critic.lr=1e-3"],
            "optimizer.drop_by must be in (0, 1), what is left of the rate, got 10.0",
        ),
        (["optimizer.critic.warmup_steps=-1"], "optimizer.critic.weight_decay and warmup_steps must not be negative"),
        (["optimizer.critic.final_lr=2"], "final_lr must be in [0, 1], got 0.0, 100 and 2.0"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused_once_with_its_fix(overrides, message):
    with pytest.raises(InputError) as error:
        check_command("train", ["trainer.max_steps=1500", *overrides])
    assert message in str(error.value)
    assert "1 mistake in the config:" in str(error.value)


@pytest.mark.parametrize("given", ["trainer.max_steps=1500", "optimizer.drop_at=null"])
def test_the_fixes_that_the_message_names_are_taken(given):
    check_command(
        "train", ["trainer.max_steps=1000", "optimizer.drop_at=[800,1200]", "optimizer.critic.lr=1e-3", given]
    )


@pytest.mark.parametrize(
    ("recipe", "epochs"),
    [("open_magvit2", (200, 250, 270)), ("ibq", (250, 300, 330)), ("wetok", (200, 250, 270))],
)
def test_recipes_drop_after_the_published_epochs(recipe, epochs):
    settings, trainer, _ = optimizer_of(recipe)
    length = IMAGENET // trainer.batch_size
    assert [*settings.drop_at, trainer.max_steps] == [epoch * length for epoch in epochs]
    edges = [step + offset for step in settings.drop_at for offset in (-1, 0)]
    for rate in (settings.rate, lambda step, last: settings.net_rate("critic", step, last, 0)):
        rates = [rate(step, trainer.max_steps) for step in (0, *edges, trainer.max_steps - 1)]
        assert rates == pytest.approx([1e-4, 1e-4, 1e-5, 1e-5, 1e-6, 1e-6])


@pytest.mark.parametrize("recipe", ["imagefolder", "robusttok", "xqgan_msvr"])
def test_recipes_warm_the_critic_up_for_four_epochs_from_epoch_56_to_200(recipe):
    settings, trainer, adversary = optimizer_of(recipe)
    epoch = IMAGENET // trainer.batch_size
    assert adversary.critic_start == 56 * epoch

    def at(step):
        return settings.net_rate("critic", step, trainer.max_steps, adversary.critic_start)

    assert at(56 * epoch) == pytest.approx(8e-4 / (4 * epoch))
    assert at(60 * epoch - 1) == pytest.approx(8e-4)
    assert at(130 * epoch) == pytest.approx((8e-4 + 5e-5) / 2, rel=1e-3)  # half way from the warm-up to the end
    assert at(trainer.max_steps - 1) == pytest.approx(5e-5, rel=1e-3)


def test_an_exponential_schedule_is_that_of_torch():
    schedule = Exponential(warmup_steps=3, final_lr=0.5)
    parameter = torch.nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([parameter], lr=2.0)
    theirs = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5 ** (1 / 7))
    assert [schedule(step, 10, 2.0) for step in range(3)] == pytest.approx([2 / 3, 4 / 3, 2.0])
    for step in range(3, 11):
        assert schedule(step, 10, 2.0) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    assert schedule(20, 10, 2.0) == 1.0
    with pytest.raises(ValueError, match="final_lr must be above 0 to be reached exponentially, got 0"):
        Exponential(final_lr=0.0)
