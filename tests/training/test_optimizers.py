"""Any optimiser by its class, and one place that says which parameters it trains in which way."""

import re
import sys
import types

import pytest
import torch
from nn.vits import timm_net
from torch import nn
from training.gan import gan_run
from training.runs import run_tiny, state_of, tiny_run

from imtok.config import check_command
from imtok.errors import InputError
from imtok.schedules import Schedule
from imtok.training.checkpoints import load
from imtok.training.optimizer_state import optimizer_state, restore_optimizer
from imtok.training.optimizers import Together, make_optimizer, set_rate, try_optimizer
from imtok.training.rates import build_schedules
from imtok.training.resume import changes
from imtok.training.settings import NetSettings, OptimizerSettings

SMALL = ("width=16", "depth=2", "heads=2", "patch_size=8")
SGD = ("optimizer._target_=torch.optim.SGD", "~optimizer.betas", "+optimizer.momentum=0.9")
VIT = ("encoder=vit", "decoder=vit", *(f"{net}.{key}" for net in ("encoder", "decoder") for key in SMALL))
OPTIONS = {"muon": (*VIT, "optimizer=muon"), "sgd": SGD}


class Counting(torch.optim.SGD):
    """Keeps something in each place in which an optimiser may keep it."""

    def __init__(self, params, lr=0.1, bold=1.0):
        super().__init__(params, lr=lr)
        for group in self.param_groups:
            group["bold"] = bold

    def step(self, closure=None):
        super().step(closure)
        for group in self.param_groups:
            group["bold"] = group["bold"] * 0.5
            group["seen"] = group.get("seen", 0) + 1
            for parameter in group["params"]:
                self.state[parameter]["pair"] = (parameter.detach().sum(), 3)
        self.state["all"]["steps"] = self.state["all"].get("steps", 0) + 1


class Odd(torch.optim.SGD):
    def __init__(self, params, lr=0.1):
        super().__init__(params, lr=lr)

    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["set"] = {1, 2}


class Wave(Schedule):
    def __init__(self, warmup_steps=0, low=0.5):
        self.warmup_steps, self.low = warmup_steps, low

    def __call__(self, step, steps, peak):
        return peak * (self.low if step % 2 else 1.0)


@pytest.fixture(autouse=True)
def package(monkeypatch):
    """A package of one's own."""
    mine = types.ModuleType("mine_optimizers")
    for one in (Counting, Odd, Wave):
        monkeypatch.setattr(one, "__module__", "mine_optimizers")
        setattr(mine, one.__name__, one)
    mine.function = lambda params, lr: torch.optim.SGD(params, lr)
    monkeypatch.setitem(sys.modules, "mine_optimizers", mine)


def learnt(tokenizer):
    return [parameter for parameter in tokenizer.parameters() if parameter.requires_grad]


@pytest.mark.parametrize("name", OPTIONS)
def test_a_run_with_any_optimiser_goes_on_bit_for_bit(tmp_path, name):
    short = ("trainer.max_steps=4", *OPTIONS[name])
    run_tiny(tmp_path / "straight", *short)
    run_tiny(tmp_path / "halves", *short, "trainer.stop_at=2")
    run_tiny(tmp_path / "halves", *short, "ckpt=last")
    assert state_of(tmp_path / "halves", 4) == state_of(tmp_path / "straight", 4)


def test_adamw_is_what_it_was(tmp_path):
    """The groups, their order and every argument of the only optimiser that there was."""
    run = tiny_run(tmp_path)
    made = make_optimizer(run.tokenizer, run.optimizer)
    assert type(made) is torch.optim.AdamW
    assert [(group["weight_decay"], group["betas"], group["scale"]) for group in made.param_groups] == [
        (0.1, (0.9, 0.95), 1.0),
        (0.0, (0.9, 0.95), 1.0),
    ]
    assert all(parameter.ndim >= 2 for parameter in made.param_groups[0]["params"])
    assert sum(len(group["params"]) for group in made.param_groups) == len(learnt(run.tokenizer))


def test_muon_trains_the_matrices_of_linear_layers_and_adamw_all_else(tmp_path):
    run = tiny_run(tmp_path, *VIT, "optimizer=muon")
    made = make_optimizer(run.tokenizer, run.optimizer)
    assert isinstance(made, Together)
    muon, adamw = made.optimizers
    assert (type(muon), type(adamw)) == (torch.optim.Muon, torch.optim.AdamW)
    matrices = {id(p) for group in muon.param_groups for p in group["params"]}
    linear = {id(part.weight) for part in run.tokenizer.modules() if isinstance(part, nn.Linear)}
    assert matrices == linear - {id(run.tokenizer.decoder.last_layer)}
    both = matrices | {id(p) for group in adamw.param_groups for p in group["params"]}
    assert both == {id(p) for p in learnt(run.tokenizer)}
    assert {group["betas"] for group in adamw.param_groups} == {(0.9, 0.95)}
    set_rate(made, 0.25)
    assert {group["lr"] for one in made.optimizers for group in one.param_groups} == {0.25}


def test_two_optimisers_together_do_what_each_does_alone():
    torch.manual_seed(0)
    nets = [nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2)) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    settings = OptimizerSettings(
        _target_="torch.optim.Muon", lr=0.1, weight_decay=0.1, beside={"_target_": "torch.optim.Adam"}
    )
    together = make_optimizer(nets[0], settings)
    weights = [nets[1][0].weight, nets[1][1].weight]
    alone = [
        torch.optim.Muon(weights, lr=0.1, weight_decay=0.1),
        torch.optim.Adam([nets[1][0].bias, nets[1][1].bias], lr=0.1),
    ]
    data = torch.randn(5, 4)
    for _ in range(3):
        for net in nets:
            net.zero_grad()
            net(data).square().sum().backward()
        together.step()
        for one in alone:
            one.step()
    for one, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_layers_of_an_encoder_learn_at_falling_rates(tmp_path):
    run = tiny_run(tmp_path, *VIT, "encoder.depth=3", "optimizer.layer_decay=0.5")
    encoder = run.tokenizer.encoder
    made = make_optimizer(run.tokenizer, run.optimizer)
    rate = {id(p): group["scale"] for group in made.param_groups for p in group["params"]}
    blocks = [part for name, part in encoder.named_modules() if name.endswith(("blocks.0", "blocks.1", "blocks.2"))]
    assert [{rate[id(p)] for p in block.parameters()} for block in blocks] == [{0.125}, {0.25}, {0.5}]
    assert {rate[id(p)] for p in run.tokenizer.decoder.parameters()} == {1.0}
    assert min(rate[id(p)] for p in encoder.parameters()) == 0.0625
    assert {group["weight_decay"] for group in made.param_groups} == {0.0, 0.1}
    set_rate(made, 2.0)
    assert {group["lr"] for group in made.param_groups} == {0.125, 0.25, 0.5, 1.0, 2.0}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["optimizer.layer_decay=0.5"], "optimizer.layer_decay needs an encoder of blocks, and PatchEncoder has none"),
        (["optimizer=muon"], "optimizer: Muon is for matrices of linear layers, and none learns; give optimizer=adamw"),
    ],
)
def test_what_a_net_does_not_have_is_named_before_a_run_writes_anything(tmp_path, given, message):
    with pytest.raises(InputError, match=message):
        run_tiny(tmp_path / "run", *given)
    assert not (tmp_path / "run").exists()


def test_the_critic_may_have_an_optimiser_of_its_own(tmp_path):
    own = ("+optimizer.critic._target_=torch.optim.RMSprop", "+optimizer.critic.alpha=0.9", "optimizer.critic.lr=1e-3")
    run = gan_run(tmp_path, "everything", *own, "trainer.max_steps=4")
    made = [
        make_optimizer(run.tokenizer, run.optimizer),
        make_optimizer(run.objective.critic, run.optimizer.for_net("critic")),
    ]
    assert [type(one).__name__ for one in made] == ["AdamW", "RMSprop"]
    assert {(group["alpha"], group["lr"]) for group in made[1].param_groups} == {(0.9, 1e-3)}
    same = OptimizerSettings(arguments={"eps": 1e-5}, critic=NetSettings(arguments={"amsgrad": True}))
    assert same.for_net("critic").arguments == {"eps": 1e-5, "amsgrad": True}


@pytest.mark.parametrize("name", ["dinov2_b14_reg", "clip_b16", "eva02_s14"])
def test_the_layers_of_a_pretrained_encoder_learn_at_the_rates_of_timms_groups(name, tmp_path):
    from timm.optim import param_groups_layer_decay

    net = timm_net(name, 112, num_classes=3, global_pool="").requires_grad_(True)
    theirs = dict[str, set[float]]()
    names = {id(parameter): key for key, parameter in net.named_parameters()}
    for group in param_groups_layer_decay(net, 0.1, layer_decay=0.5):
        for parameter in group["params"]:
            theirs.setdefault(_place(names[id(parameter)]), set()).add(group["lr_scale"])
    run = tiny_run(
        tmp_path, f"encoder={name}", "encoder.width=16", "encoder.heads=2", "encoder.depth=3", "encoder.factor=8",
        "encoder.weights=random", "optimizer.layer_decay=0.5",
    )  # fmt: skip
    rate = {
        id(p): group["scale"]
        for group in make_optimizer(run.tokenizer, run.optimizer).param_groups
        for p in group["params"]
    }
    ours = dict[str, set[float]]()
    for key, parameter in run.tokenizer.encoder.named_parameters():
        ours.setdefault(_place(key), set()).add(rate[id(parameter)])
    assert ours == theirs == {"before": {0.0625}, "0": {0.125}, "1": {0.25}, "2": {0.5}, "norm": {0.5}, "head": {1.0}}


def _place(key):
    """Where in the net a parameter is, by its name here or in timm."""
    block = re.search(r"blocks\.(\d)\.", key)
    if block:
        return block[1]
    if re.search(r"(^|\.)norm\.", key):
        return "norm"
    return "head" if key.startswith(("head", "project", "fc_norm")) else "before"


def test_an_optimiser_and_a_schedule_of_ones_own_need_nothing_of_imtok(tmp_path):
    mine = (
        *("optimizer._target_=mine_optimizers.Counting", "~optimizer.betas", "optimizer.weight_decay=0"),
        *("schedule._target_=mine_optimizers.Wave", "+schedule.low=0.25", "trainer.log_every=1"),
    )
    run = tiny_run(tmp_path / "x", *mine)
    assert run.schedules["tokenizer"].warmup_steps == 3  # as optimizer.warmup_steps says
    assert [run.optimizer.rate(step, 14, 0, run.schedules["tokenizer"]) for step in range(3)] == [2e-3, 5e-4, 2e-3]
    short = ("trainer.max_steps=4", *mine)
    run_tiny(tmp_path / "straight", *short)
    run_tiny(tmp_path / "halves", *short, "trainer.stop_at=2")
    run_tiny(tmp_path / "halves", *short, "ckpt=last")
    stored = [load(tmp_path / name / "checkpoints/step_4") for name in ("straight", "halves")]
    for name, value in stored[0].model.items():
        assert torch.equal(value, stored[1].model[name])
    assert stored[0].state["optimizers"][0]["groups"] == stored[1].state["optimizers"][0]["groups"]
    assert stored[1].state["optimizers"][0]["groups"][0]["settings"] == {"bold": 0.5**4, "seen": 4}
    assert stored[1].state["optimizers"][0]["other"] == {"all": {"steps": 4}}


def test_what_an_optimiser_keeps_anywhere_comes_back():
    nets = [nn.Sequential(nn.Linear(3, 2)), nn.Sequential(nn.Linear(3, 2))]
    settings = OptimizerSettings(_target_="mine_optimizers.Counting", lr=0.1)
    made = [make_optimizer(net, settings) for net in nets]
    for parameter in nets[0].parameters():
        parameter.grad = torch.ones_like(parameter)
    made[0].step()
    stored = optimizer_state(nets[0], made[0])
    restore_optimizer(nets[1], made[1], stored)
    again = optimizer_state(nets[1], made[1])
    assert again["groups"] == stored["groups"]
    assert again["other"] == stored["other"]
    assert torch.equal(again["state"]["0.weight"]["pair"][0], stored["state"]["0.weight"]["pair"][0])


def test_a_fused_optimiser_goes_on_as_well():
    nets = [nn.Sequential(nn.Linear(3, 2)) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    made = [make_optimizer(net, OptimizerSettings(lr=0.1, arguments={"fused": True})) for net in nets]
    for step in range(3):
        for net, optimizer in zip(nets, made, strict=True):
            for parameter in net.parameters():
                parameter.grad = torch.full_like(parameter, 0.1 * step)
            optimizer.step()
        restore_optimizer(nets[1], made[1], optimizer_state(nets[0], made[0]))
    for one, other in zip(*(net.parameters() for net in nets), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("target", "sharded", "message"),
    [
        ("torch.optim.LBFGS", False, "LBFGS"),
        ("torch.optim.SparseAdam", False, "SparseAdam does not support dense gradients"),
        ("torch.optim.Muon", False, "Muon only supports 2D parameters"),
        ("mine_optimizers.Odd", False, "Odd keeps set as set, which no checkpoint can hold"),
        ("torch.optim.Adafactor", True, "Adafactor keeps row_var in another shape"),
        ("mine_optimizers.function", False, "must name a subclass of torch.optim.optimizer.Optimizer"),
        ("torch.optim.Optimizer", False, "which is only a base"),
    ],
)
def test_what_cannot_train_in_steps_of_imtok_is_refused_before_a_run(target, sharded, message):
    with pytest.raises(InputError, match=message):
        try_optimizer(OptimizerSettings(_target_=target), "optimizer", sharded)


@pytest.mark.parametrize("target", ["Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "ASGD", "NAdam", "RAdam", "SGD"])
def test_torchs_other_optimisers_can(target):
    for sharded in (True, False):
        try_optimizer(OptimizerSettings(_target_=f"torch.optim.{target}"), "optimizer", sharded)
    try_optimizer(OptimizerSettings(_target_="torch.optim.Adafactor"), "optimizer", sharded=False)
    assert "Rprop" in refusal(OptimizerSettings(_target_="torch.optim.Rprop", weight_decay=0.1))


def refusal(settings):
    with pytest.raises(InputError, match=r"optimizer.weight_decay must be 0, since Rprop has none") as caught:
        try_optimizer(settings, "optimizer", sharded=False)
    return str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer._target_=torch.load", "optimizer._target_ must name a subclass of torch.optim.optimizer.Optimizer"),
        ("optimizer._target_=torch.nn.Linear", "optimizer._target_ must name a subclass of torch.optim"),
        ("schedule._target_=os.system", "schedule._target_ must name a subclass of imtok.schedules.Schedule"),
        ("optimizer._target_=torch.optim.SGD", "SGD has no argument betas, which a recipe, its size or another option"),
        ("+optimizer.momentum=1", "optimizer.momentum: AdamW has no argument momentum"),
        ("+optimizer.critic.momentum=1", "optimizer.critic.momentum: AdamW has no argument momentum"),
        ("optimizer.layer_decay=1", "optimizer.layer_decay must be in (0, 1) or null, got 1.0"),
        ("optimizer.beside={_target_:os.getcwd}", "optimizer.beside._target_ must name a subclass of torch.optim"),
        ("~optimizer.lr", "optimizer.lr: must not be taken out"),
        ("optimizer=adamx", "optimizer=adamx: no such option"),
    ],
)
def test_mistakes_are_named_with_the_config(override, message):
    with pytest.raises(InputError) as caught:
        check_command("train", [override])
    assert message in str(caught.value)


@pytest.mark.parametrize(("recipe", "optimizer"), [("llamagen_vq16", "adam"), ("titok_bl64", "muon")])
def test_recipes_take_another_optimiser_by_its_name(recipe, optimizer):
    check_command("train", [f"experiment={recipe}", "size=tiny", f"optimizer={optimizer}"])


def test_a_run_of_before_had_adamw_and_a_cosine(tmp_path):
    run = tiny_run(tmp_path)
    before = {key: value for key, value in run.config.items() if key != "schedule"}
    before["optimizer"] = {
        key: value for key, value in run.config["optimizer"].items() if key not in ("_target_", "layer_decay", "beside")
    }
    assert changes(before, run.config) == {}
    assert set(changes(before, tiny_run(tmp_path, "optimizer=adam").config)) == {"optimizer._target_"}


def test_another_optimiser_begins_anew_where_a_run_may_change(tmp_path, caplog):
    run_tiny(tmp_path / "run", "trainer.max_steps=4", "trainer.stop_at=2")
    with pytest.raises(InputError, match=r"optimizer\._target_: torch\.optim\.AdamW -> "):
        run_tiny(tmp_path / "run", "trainer.max_steps=4", "ckpt=last", *SGD)
    changed = ("ckpt=last", *SGD, "allow_change=[optimizer]")
    assert run_tiny(tmp_path / "run", "trainer.max_steps=4", *changed).step == 4
    assert "the optimiser begins anew, since optimizer._target_, optimizer.momentum differ" in caplog.text
    (state,) = load(tmp_path / "run/checkpoints/step_4").state["optimizers"]
    assert {key for values in state["state"].values() for key in values} == {"momentum_buffer"}


@pytest.mark.parametrize(
    ("low", "message"), [(-1.0, "at least 0, got -"), (float("nan"), "got nan"), ("a", "fails at step 1")]
)
def test_a_schedule_that_gives_no_rate_is_refused(tmp_path, low, message):
    section = {"_target_": "mine_optimizers.Wave", "low": low}
    with pytest.raises(InputError, match=message):
        build_schedules(section, OptimizerSettings(), 9)
