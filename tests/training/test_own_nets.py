"""An objective with two nets more, each with an optimiser of its own, in a package of one's own."""

import csv
import sys
from dataclasses import replace

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import nn
from training.runs import state_of, tiny_run

from imtok.config import check_config, register_schemas
from imtok.errors import InputError
from imtok.folders import config_folder
from imtok.losses.pixel import L2Loss
from imtok.objectives.reconstruction import ReconstructionObjective
from imtok.optimizer_section import read_optimizer, typed_section
from imtok.training.checkpoints import load
from imtok.training.nets import check_nets
from imtok.training.run import train
from imtok.training.settings import NetSettings, OptimizerSettings
from imtok.types import Loss, Losses, NetLosses, StepOutput

OBJECTIVE = '''
from torch import nn

from imtok.losses.pixel import L2Loss
from imtok.losses.total import total
from imtok.objectives.base import Objective
from imtok.pixels import to_float
from imtok.types import Loss, Losses, NetLosses, StepOutput


class Judged(Objective):
    """Squared error, and the score of a judge, who learns to tell images; a probe reads the codes from step 3 on."""

    def __init__(self, start: int = 3) -> None:
        super().__init__()
        self.start = start
        self.error = L2Loss()
        self.judge = nn.Conv2d(3, 1, 4, 4)
        self.probe = nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 3))
        self.seen = 0.0

    def nets(self):
        return {**super().nets(), "judge": self.judge, "probe": self.probe}

    def net_start(self, name):
        return self.start if name == "probe" else None

    def net_losses(self, name, shown, step):
        if name == "judge":
            apart = self.judge(shown.image).mean() - self.judge(shown.target).mean()
            terms = {"apart": Loss(apart.tanh(), 1.0)}
            return NetLosses(total(terms), terms, stats={"images": apart.detach() * 0 + len(shown.target)})
        if step < self.start:
            return None
        colour = self.probe(shown.quantized.latents.mean(1))
        terms = {"probe": Loss((colour - shown.target.mean((2, 3))).square().mean(), 0.5)}
        return NetLosses(total(terms), terms)

    def net_update(self, name, stats):
        if name == "judge":
            self.seen += float(stats["images"])

    def forward(self, tokenizer, batch, step, generator):
        target = to_float(batch.image)
        made = tokenizer(target, condition=tokenizer.condition_of(batch), step=step, generator=generator)
        terms = {"l2": Loss(self.error(made.image, target), 1.0), "fooled": Loss(-self.judge(made.image).mean(), 0.01)}
        terms |= made.quantized.losses
        return Losses(total(terms), terms, StepOutput(target, made.image, made.quantized))
'''
WORDS = (
    "~objective", "+objective={_target_:own_nets.Judged}", "quantizer.dim=4",
    "+optimizer.nets.judge={_target_:torch.optim.SGD,lr:0.05,momentum:0.9,betas:null,weight_decay:0.0,clip:0.1}",
    "+optimizer.nets.probe={warmup_steps:2,final_lr:1.0,lr:0.002}", "trainer.max_steps=6", "trainer.log_every=1",
)  # fmt: skip


@pytest.fixture
def package(tmp_path, monkeypatch):
    (tmp_path / "own_nets.py").write_text(OBJECTIVE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("IMTOK_PACKAGES", "own_nets")
    yield tmp_path
    sys.modules.pop("own_nets", None)


def carry_out(folder, *more):
    run = tiny_run(folder, *WORDS, *more)
    outcome = train(run)
    return run, outcome


def test_two_nets_of_an_objective_train_by_settings_of_their_own_and_resume_bitwise(package):
    run, _ = carry_out(package / "straight", "trainer.accumulate=2")
    assert run.objective.seen == 6 * 4
    rows = list(csv.DictReader((package / "straight/metrics.csv").read_text().splitlines()))
    assert [float(row["lr_judge"]) for row in rows] == pytest.approx(
        [run.optimizer.net_rate("judge", step, 6, 0) for step in range(6)], rel=1e-5
    )
    assert [row["lr_probe"] for row in rows[:3]] == ["", "", ""]
    assert [float(row["lr_probe"]) for row in rows[3:]] == pytest.approx([0.001, 0.002, 0.002])  # its own warm-up
    assert all(float(row["gradient_norm_judge"]) > 0 for row in rows)
    assert {"apart", "probe", "probe_weighted", "gradient_norm_probe"} <= rows[-1].keys()
    optimizers = load(package / "straight/checkpoints/step_6").state["optimizers"]
    assert set(optimizers[1]["state"]["objective.judge.weight"]) == {"momentum_buffer"}
    assert optimizers[2]["state"]["objective.probe.0.weight"]["step"] == 3

    carry_out(package / "resumed", "trainer.accumulate=2", "trainer.stop_at=4")
    carry_out(package / "resumed", "trainer.accumulate=2", "ckpt=last")
    straight, resumed = state_of(package / "straight", 6), state_of(package / "resumed", 6)
    assert straight == resumed


class Nets(ReconstructionObjective):
    """Reconstruction, with the nets that a test gives it."""

    def __init__(self, **nets: nn.Module) -> None:
        super().__init__({"l2": L2Loss()})
        self.others = nn.ModuleDict(nets)

    def nets(self):
        return {**super().nets(), **self.others}

    def net_losses(self, name: str, shown: StepOutput, step: int) -> NetLosses | None:
        value = torch.stack([parameter.square().sum() for parameter in self.parameters()]).sum()
        return NetLosses(value, {name: Loss(value.detach(), 1.0)})

    def forward(self, tokenizer, batch, step, generator) -> Losses:
        losses = super().forward(tokenizer, batch, step, generator)
        through = torch.stack([parameter.sum() for parameter in self.others.parameters()]).sum()
        return replace(losses, total=losses.total + 0 * through)


def test_a_net_learns_from_its_own_losses_alone_and_is_clipped_alone(tmp_path):
    torch.manual_seed(0)
    one, two = nn.Linear(2, 2), nn.Linear(2, 2)
    nets = {
        "one": NetSettings(clip=1e-3),
        "two": NetSettings(_target_="torch.optim.SGD", lr=0.25, weight_decay=0.0, warmup_steps=0),
    }
    run = tiny_run(tmp_path, "trainer.max_steps=1", "trainer.clip=null")
    run = replace(run, objective=Nets(one=one, two=two), optimizer=replace(run.optimizer, nets=nets))
    before = two.weight.detach().clone()
    train(run)
    torch.testing.assert_close(two.weight.detach(), before - 0.25 * 2 * before)  # of both losses it would be twice that


def test_losses_of_one_name_are_refused(tmp_path):
    run = replace(tiny_run(tmp_path, "trainer.max_steps=1"), objective=Nets(l2=nn.Linear(1, 1)))
    with pytest.raises(InputError, match="names of losses must differ among its nets, got l2 twice"):
        train(run)


def same(net):
    return Nets(one=net, two=net)


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (lambda: Nets(heads=nn.Linear(1, 1)), "nets of Nets must have names that are words, .* got 'heads'"),
        (lambda: Nets(idle=nn.Identity()), "the net idle of Nets has nothing that learns"),
        (lambda: same(nn.Linear(1, 1)), "the nets of Nets must share no weights, and two has some of one"),
    ],
)
def test_nets_that_a_run_cannot_keep_apart_are_refused(objective, message):
    with pytest.raises(InputError, match=message):
        check_nets(objective(), OptimizerSettings())


def test_a_net_that_no_checkpoint_would_hold_and_settings_of_no_net_are_refused():
    objective = Nets(one=nn.Linear(1, 1))
    with pytest.raises(
        InputError, match=r"optimizer\.nets\.two: the objective \(Nets\) has one; ~optimizer\.nets\.two"
    ):
        check_nets(objective, OptimizerSettings(nets={"two": NetSettings()}))
    vars(objective)["nets"] = lambda: {"lost": nn.Linear(1, 1)}
    with pytest.raises(InputError, match="the net lost of Nets must be a sub-module of it"):
        check_nets(objective, OptimizerSettings())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("+optimizer.nets.judge.lr=-1", "optimizer.nets.judge.lr must be positive, got -1"),
        ("+optimizer.nets.judge.clip=0", "optimizer.nets.judge.clip must be positive or null, got 0"),
        ("+optimizer.nets.judge.lr=fast", "optimizer.nets.judge.lr: must be a number, got fast"),
        ("+optimizer.nets.judge=3", "optimizer.nets.judge: must be a section, got 3"),
        ("+optimizer.nets=3", "optimizer.nets: takes sections by the names of nets, got 3"),
        (
            "+optimizer.nets.critic.lr=1",
            "optimizer.nets.critic: what differs for the critic stands in optimizer.critic",
        ),
        ("+optimizer.nets.judge.momentum=0.9", "optimizer.nets.judge.momentum: AdamW has no argument momentum"),
        ("+optimizer.nets.judge._target_=os.system", "optimizer.nets.judge._target_ must name a subclass of"),
        (
            "+optimizer.nets.judge={_target_:torch.optim.Muon,beside:{_target_:torch.optim.Adam,slow:1}}",
            "optimizer.nets.judge.beside.slow: Adam has no argument slow",
        ),
    ],
)
def test_mistakes_in_the_settings_of_a_net_are_named_by_their_keys(words, message):
    register_schemas()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        lines = check_config(compose("train", overrides=[words]), "train")
    assert len(lines) == 1
    assert lines[0].startswith(message)


def test_settings_of_no_net_leave_no_trace_in_what_is_stored():
    section = {"_target_": "torch.optim.AdamW", "lr": 1.0, "eps": 1e-5}
    assert "nets" not in typed_section(section)
    stored = typed_section({**section, "nets": {"judge": {"lr": 2.0, "amsgrad": True}}})
    judge = stored["nets"]["judge"]
    assert {name: value for name, value in judge.items() if value is not None} == {"lr": 2.0, "amsgrad": True}
    assert read_optimizer(stored).for_net("judge").arguments == {"eps": 1e-5, "amsgrad": True}
