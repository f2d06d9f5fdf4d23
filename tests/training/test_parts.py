"""Parts that may be classes of a library, and schedules, which may be of anybody's package."""

import sys
import types

import pytest
import torch
from torch.optim import Optimizer

from imtok.config import check_command
from imtok.construct import check_stored, stored_class
from imtok.errors import InputError
from imtok.folders import config_folder
from imtok.schedules import WSD, Constant, WarmupCosine, warmup_cosine
from imtok.training.parts import BASES, build, find_class


class Mine(torch.optim.SGD):
    pass


@pytest.fixture(autouse=True)
def package(monkeypatch):
    monkeypatch.setattr(Mine, "__module__", "mine_optimizers")
    monkeypatch.setitem(sys.modules, "mine_optimizers", types.SimpleNamespace(Counting=Mine))


@pytest.mark.parametrize("target", ["os.system", "torch.hub.load", "torch.load", "subprocess.Popen", "builtins.eval"])
def test_a_stored_section_builds_nothing_else(target):
    for group, bases in BASES.items():
        with pytest.raises(ValueError, match=r"_target_ must"):
            check_stored({"_target_": target, "command": "touch x"}, base=bases[0])
        with pytest.raises(InputError, match=r"_target_"):
            build({"_target_": target, "command": "touch x"}, group, group)
    with pytest.raises(ValueError, match=r"must be a class of imtok, torch\.optim in a stored config"):
        check_stored({"_target_": "mine_optimizers.Counting"}, base=Optimizer)


def test_packages_of_ones_own_are_named_for_stored_sections(monkeypatch):
    monkeypatch.setenv("IMTOK_PACKAGES", "mine_optimizers")
    assert stored_class("mine_optimizers.Counting", ("imtok",), BASES["optimizer"]) is Mine
    assert find_class("mine_optimizers.Counting", "optimizer", "optimizer") is Mine


@pytest.mark.parametrize("group", ["optimizer", "schedule", "logger", "callback"])
def test_every_option_of_a_group_says_what_it_is_and_is_accepted(group):
    options = sorted(path.stem for path in (config_folder() / group).glob("*.yaml"))
    assert len(options) > 2
    for option in options:
        assert (config_folder() / group / f"{option}.yaml").read_text().startswith("# ")
    given = (
        [[f"{group}=[{','.join(options)}]"]]
        if group in ("logger", "callback")
        else [[f"{group}={one}"] for one in options]
    )
    for overrides in given:
        check_command("train", overrides)


def test_schedules_are_functions_of_the_step():
    assert [WarmupCosine(2, 0.1)(step, 9, 0.3) for step in range(9)] == [
        warmup_cosine(step, 0.3, 2, 9, 0.3 * 0.1) for step in range(9)
    ]
    assert [Constant(2)(step, 9, 0.3) for step in range(4)] == [0.15, 0.3, 0.3, 0.3]
    rates = [WSD(2, 0.1, 0.4, "sqrt")(step, 12, 1.0) for step in range(13)]
    assert rates[:9] == [0.5] + [1.0] * 8
    assert rates == sorted(rates[:2]) + sorted(rates[2:], reverse=True)
    assert rates[12] == pytest.approx(0.1)
