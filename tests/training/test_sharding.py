"""Sharded training is whole training: the same numbers and files, from weights of which each rank holds a part."""

import json
from copy import deepcopy
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from safetensors.torch import load_file
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from training.launch import Launched, launch_ranks

from imtok.commands.train import build_run
from imtok.config import register_schemas
from imtok.errors import InputError
from imtok.folders import config_folder
from imtok.nn.transformer import Transformer
from imtok.pretrained import fetch_weights
from imtok.quantizers.fvq import FVQ
from imtok.training.checkpoints import load
from imtok.training.hardware import make_trainer
from imtok.training.optimizer_state import optimizer_state, restore_optimizer
from imtok.training.optimizers import make_optimizer
from imtok.training.records import SPEED
from imtok.training.settings import OptimizerSettings, TrainerSettings
from imtok.training.sharding import average_gradients, clip_gradients, own, own_part, shard, units, whole
from imtok.types import Batch

STEPS = 4
BASE = [
    *(f"trainer.max_steps={STEPS}", "trainer.batch_size=4", "trainer.clip=0.1", "trainer.save_every=2"),
    *("trainer.keep=9", "trainer.log_every=2", "ema.decay=0.9", "data.crops_per_photo=1"),
]
ALONG = ["trainer.evaluate_every=2", "trainer.evaluate_images=4", "trainer.pictures_every=4"]
RUNS = {"vit": ALONG, "vit_critic": ["trainer.accumulate=2"], "cnn": []}


def test_the_net_that_makes_a_codebook_stays_whole():
    """Each device may look up codes when the others do not."""
    net = nn.ModuleList([Transformer(8, depth=2, heads=2), FVQ(4, 16, width=8, heads=2)])
    assert units(net) == list(net[0].blocks)


def carry_out(world, root, runs, log):
    arguments = [str(root / str(world)), runs]
    if world == 1:
        processes = [Launched("training.sharded:train_nets", arguments, log.with_suffix(".log"))]
    else:
        processes = launch_ranks(world, "training.sharded:train_nets", arguments, log)
    codes = [process.wait(600) for process in processes]
    assert codes == [0] * world, "\n".join(process.output for process in processes)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same runs in one process and in shards over two, and two that went on the other way."""
    root = tmp_path_factory.mktemp("sharded")
    for world in (1, 2):
        (root / str(world)).mkdir()
    runs = {name: [*BASE, *more] for name, more in RUNS.items()}
    whole_batches = {name: [item for item in given if "accumulate" not in item] for name, given in runs.items()}
    carry_out(1, root, whole_batches, root / "first1")
    sharded = {name: ["trainer=fsdp", *given, "trainer.accelerator=cpu"] for name, given in runs.items()}
    back = {"vit_back": [*sharded["vit"], f"ckpt={root}/1/vit/checkpoints/step_2"]}
    again = [*sharded["vit"], "trainer.save_async=true", f"ckpt={root}/2/vit/checkpoints/step_2"]
    sets = [*sharded["vit"], "trainer.fsdp_replicas=2"]
    carry_out(2, root, sharded | back | {"vit_again": again, "vit_sets": sets}, root / "first2")
    back = {"vit_back": [*runs["vit"], f"ckpt={root}/2/vit/checkpoints/step_2"]}
    carry_out(1, root, back, root / "back1")
    return root


def tensors(folder):
    checkpoint = load(folder / f"checkpoints/step_{STEPS}")
    found = {f"model.{name}": value for name, value in checkpoint.model.items()}
    found |= {f"ema.{name}": value for name, value in checkpoint.ema.items()}
    for index, optimizer in enumerate(checkpoint.state["optimizers"]):
        for name, state in optimizer["state"].items():
            found |= {f"optimizer{index}.{name}.{key}": value for key, value in state.items()}
    return found | load_file(folder / "tokenizer/model.safetensors")


@pytest.mark.parametrize("name", ["1/vit_back", *(f"2/{name}" for name in [*RUNS, "vit_back", "vit_sets"])])
def test_shards_on_two_ranks_train_like_one_process(runs, name):
    """Weights, averages, both optimisers and the saved tokenizer; also where a run changes from one to the other."""
    other = "vit_critic" if "critic" in name else name.split("/")[1].split("_")[0]
    found, expected = tensors(runs / name), tensors(runs / "1" / other)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-9, atol=1e-9, msg=lambda text, key=key: f"{key}: {text}")


def test_shards_go_on_from_shards_bit_for_bit(runs):
    found, expected = tensors(runs / "2/vit_again"), tensors(runs / "2/vit")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_each_rank_writes_its_share(runs):
    """What is whole on both ranks is written once, by one of them."""
    folder = runs / f"2/vit/checkpoints/step_{STEPS}"
    sizes = [file.stat().st_size for file in sorted(folder.glob("shard-*"))]
    assert len(sizes) == 2
    assert max(sizes) < 0.65 * sum(sizes)
    whole = sum(value.nbytes for name, value in tensors(runs / "2/vit").items() if "." in name)
    assert sum(sizes) < 1.2 * whole


@pytest.mark.parametrize("name", ["vit", "cnn"])
def test_each_rank_holds_its_share_of_the_weights(runs, name):
    counts = [json.loads((runs / f"2/{name}.{rank}.json").read_text()) for rank in range(2)]
    for held, of in counts:
        assert held < 0.75 * of  # the nets are tiny: what stays whole weighs more than it ever does
    assert json.loads((runs / f"1/{name}.0.json").read_text()) == [counts[0][1]] * 2


def test_what_is_measured_along_the_way_is_the_same(runs):
    for file in ("evaluation.csv", "metrics.csv"):
        found, expected = (
            [line.split(",") for line in (runs / world / "vit" / file).read_text().splitlines()] for world in "21"
        )
        assert found[0] == expected[0]
        kept = [i for i, name in enumerate(found[0]) if name not in SPEED]
        for row, other in zip(found[1:], expected[1:], strict=True):
            assert [float(row[i]) for i in kept] == pytest.approx([float(other[i]) for i in kept], rel=1e-6)
    assert (runs / "2/vit/images/step_4.png").exists()


@pytest.fixture(scope="module")
def mesh():
    """A process group of this process alone: its only shard is all there is, and still no whole tensor."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def sharded_net(mesh):
    torch.manual_seed(0)
    net = nn.ModuleDict({"trunk": Transformer(8, 2, 2), "last": nn.Linear(8, 3)})
    shard(net, mesh)
    return net


# one of each way in which an objective uses blocks: rollouts, two passes, masks, flows, taps, tables, stages
QUICK = ["alit_stage1", "flextok_d12", "gigatok_ss", "hita", "karl", "llamagen_vq16", "titok_l32", "uniwetok"]
RECIPES = sorted(path.stem for path in (config_folder() / "experiment").glob("*.yaml"))


@pytest.mark.parametrize(
    "recipe", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in RECIPES]
)
def test_a_recipes_objective_has_the_same_gradients_in_shards(mesh, recipe):
    """Nothing looks at a weight of a block from outside: it would be a shard."""
    register_schemas()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose("train", overrides=[f"experiment={recipe}", "size=tiny"])
    for key in OmegaConf.missing_keys(config):
        OmegaConf.update(config, key, "somewhere")
    run = build_run(config, Path("nowhere"))
    fetch_weights(run.objective)
    fetch_weights(run.tokenizer)
    whole_one, sharded = deepcopy(run.tokenizer), run.tokenizer
    shard(sharded, mesh)
    pixels = torch.randint(0, 256, (2, 3, config.image_size, config.image_size), dtype=torch.uint8)
    batch = Batch(pixels, torch.full((2,), -1), torch.arange(2), ["a", "b"])
    for tokenizer in (whole_one, sharded):
        torch.manual_seed(1)
        generator = torch.Generator().manual_seed(1)
        run.objective(tokenizer.train(), batch, 10**6, generator).total.backward()
    inside = {id(parameter) for unit in units(sharded) for parameter in unit.parameters()}
    assert len(inside) >= 20  # of at least two blocks
    assert inside == {id(one) for one in sharded.parameters() if isinstance(one, DTensor)}
    for (name, one), other in zip(whole_one.named_parameters(), sharded.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None), name
        if one.grad is not None and other.grad is not None:
            torch.testing.assert_close(own(other.grad), one.grad, rtol=1e-5, atol=1e-6, msg=name)


def test_blocks_are_sharded_and_the_rest_stays_whole(mesh):
    net = sharded_net(mesh)
    kinds = {name: isinstance(parameter, DTensor) for name, parameter in net.named_parameters()}
    assert all(sharded == name.startswith("trunk.blocks.") for name, sharded in kinds.items())
    assert sum(kinds.values()) > 10


def test_the_norm_is_that_of_all_gradients_and_clipping_scales_them_alike(mesh):
    net = sharded_net(mesh)
    net["last"](net["trunk"](torch.randn(2, 5, 8))).square().sum().backward()
    gradients = [own(parameter.grad).clone() for parameter in net.parameters()]
    expected = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    norm = clip_gradients(net.parameters(), expected.item() / 4)
    torch.testing.assert_close(norm, expected)
    for parameter, before in zip(net.parameters(), gradients, strict=True):
        torch.testing.assert_close(own(parameter.grad), before / 4, rtol=1e-5, atol=1e-8)


def test_blocks_compute_in_bf16_and_learn_in_float32(mesh):
    """Within what bf16 rounds; the rest of the net, quantizers above all, stays as it is."""
    torch.manual_seed(0)
    plain = nn.ModuleDict({"trunk": Transformer(32, 2, 2), "last": nn.Linear(32, 3)})
    sharded, seen = deepcopy(plain), []
    shard(sharded, mesh, bf16=True)
    sharded["trunk"].blocks[0].mlp[0].register_forward_hook(lambda part, *_: seen.append(part.weight.dtype))
    data = torch.randn(2, 5, 32)
    for net in (plain, sharded):
        with torch.autocast("cpu", torch.bfloat16):
            out = net["trunk"](data)
            net["last"](out).square().sum().backward()
        assert out.dtype == torch.float32
    assert seen == [torch.bfloat16]
    assert {parameter.dtype for parameter in sharded.parameters()} == {torch.float32}
    gradients = [torch.cat([own(p.grad).flatten() for p in net.parameters()]) for net in (sharded, plain)]
    assert {gradient.dtype for gradient in gradients} == {torch.float32}
    assert (gradients[0] - gradients[1]).norm() < 0.03 * gradients[1].norm()


def test_sets_of_shards_must_divide_the_devices():
    settings = TrainerSettings(strategy="fsdp", accelerator="cpu", devices=3, fsdp_replicas=2)
    with pytest.raises(InputError, match=r"trainer.fsdp_replicas=2 must divide the number of devices, which is 3"):
        make_trainer(settings)


def test_a_parameter_without_gradient_keeps_none(mesh):
    net = sharded_net(mesh)
    net["trunk"](torch.randn(2, 5, 8)).sum().backward()
    average_gradients(net.parameters())
    assert net["last"].weight.grad is None
    assert net["trunk"].blocks[0].norm1.weight.grad is not None


def test_groups_of_an_optimiser_hold_one_kind_and_keep_their_settings(mesh):
    net = sharded_net(mesh)
    optimizer = make_optimizer(net, OptimizerSettings(lr=0.1, weight_decay=0.3))
    kinds = [{isinstance(parameter, DTensor) for parameter in group["params"]} for group in optimizer.param_groups]
    assert kinds == [{True}, {False}, {True}, {False}]
    settings = [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups]
    assert settings == [(0.1, 0.3)] * 2 + [(0.1, 0.0)] * 2
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(net.parameters()))


def test_muon_steps_on_shards_as_on_whole_matrices_and_comes_back(mesh):
    torch.manual_seed(0)
    plain = nn.ModuleDict({"trunk": Transformer(8, 2, 2), "last": nn.Linear(8, 3)})
    nets = [deepcopy(plain), deepcopy(plain), plain]
    for net in nets[:2]:
        shard(net, mesh)
    settings = OptimizerSettings(_target_="torch.optim.Muon", lr=0.1, beside={"_target_": "torch.optim.AdamW"})
    made = [make_optimizer(net, settings) for net in nets]
    data = torch.randn(2, 5, 8)
    for steps in range(4):
        if steps == 2:  # the second goes on from what the first has stored
            nets[1].load_state_dict(nets[0].state_dict())
            restore_optimizer(nets[1], made[1], optimizer_state(nets[0], made[0]))
        for net, optimizer in zip(nets, made, strict=True):
            net["last"](net["trunk"](data)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    for one, again, other in zip(*(net.parameters() for net in nets), strict=True):
        assert torch.equal(own(one), own(again))
        torch.testing.assert_close(own(one), other, rtol=1e-5, atol=1e-6)


def test_a_part_and_the_whole_invert_each_other(mesh):
    parameter = sharded_net(mesh)["trunk"].blocks[0].mlp[0].weight
    value = torch.randn(parameter.shape)
    assert isinstance(own_part(value, parameter), DTensor)
    torch.testing.assert_close(whole(own_part(value, parameter)), value, rtol=0, atol=0)
