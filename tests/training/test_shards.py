"""Checkpoints in shards: whole or absent, of any number of ranks for any other, and nothing in them is unpickled."""

import random
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from training.faults import plant
from training.launch import Launched, launch_ranks, launch_train
from training.runs import state_of, tiny_overrides

from imtok.errors import InputError
from imtok.training import shards
from imtok.training.checkpoints import Checkpoint, clean, damage, find, load, newest, opened
from imtok.training.sharded_saving import save_sharded
from imtok.training.sharding import aside, own

STATE = {"optimizers": [{"state": {"w": {"exp_avg": "optimizer.0.w.exp_avg"}}}], "skipped": [0, 0], "ema_updates": 1}


def begin_alone():
    """A process group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)


@pytest.fixture(scope="module")
def group():
    begin_alone()
    yield dist.new_group(backend="gloo")
    dist.destroy_process_group()


def checkpoint(step):
    return Checkpoint(step, {}, {}, {**STATE, "meters": []}, {"config": {}})


def tensors(step, size=64):
    value = torch.arange(float(size)).view(-1, 4) + step
    return {"model.w": value, "model.count": torch.tensor(step), "ema.w": value / 2, "optimizer.0.w.exp_avg": -value}


@pytest.fixture
def folder(group, tmp_path):
    """Two good checkpoints."""
    for step in (5, 10):
        save_sharded(checkpoint(step), tensors(step), tmp_path, 2, group)
    return tmp_path


def test_what_was_saved_is_what_is_loaded(folder):
    loaded, expected = load(folder / "step_10"), tensors(10)
    assert torch.equal(loaded.model["w"], expected["model.w"])
    assert torch.equal(loaded.model["count"], torch.tensor(10))
    assert torch.equal(loaded.ema["w"], expected["ema.w"])
    assert torch.equal(loaded.state["optimizers"][0]["state"]["w"]["exp_avg"], -expected["model.w"])
    assert opened(folder / "step_10").weights().keys() == {"w", "count"}
    assert {path.suffix for path in (folder / "step_10").iterdir()} == {".safetensors", ".pt", ".json"}


def test_only_the_newest_stay(folder, group):
    save_sharded(checkpoint(15), tensors(15), folder, 2, group)
    assert sorted(path.name for path in folder.iterdir()) == ["step_10", "step_15"]


def test_large_states_go_to_several_files(folder, group, monkeypatch):
    monkeypatch.setattr(shards, "_LARGEST", 300)
    save_sharded(checkpoint(15), tensors(15), folder, 2, group)
    assert len(list((folder / "step_15").glob("shard-00001-*"))) == 3
    assert torch.equal(load(folder / "step_15").model["w"], tensors(15)["model.w"])


def test_a_copy_of_a_shard_lies_on_the_cpu_and_is_a_shard(group):
    mesh = init_device_mesh("cpu", (1,), mesh_dim_names=("data_parallel",))
    value = distribute_tensor(torch.randn(6, 4), mesh, [Shard(0)])
    copy = aside(value)
    assert isinstance(copy, DTensor)
    assert (copy.shape, copy.placements) == (value.shape, value.placements)
    assert torch.equal(own(copy), own(value))
    assert own(copy).data_ptr() != own(value).data_ptr()


def test_every_one_of_100_flipped_bits_is_found_now_or_when_ranks_share_the_work(folder):
    draw, path = random.Random(0), folder / "step_10"
    for file in sorted(path.glob("*[!n]")):  # but the manifest
        content = file.read_bytes()
        for _ in range(50):
            data = bytearray(content)
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
            file.write_bytes(data)
            assert damage(path) is not None
            if damage(path, hashes=False) is None:
                with pytest.raises(InputError, match=r"shard-.* was altered"):
                    opened(path, hashes=False).shards.verify()
        file.write_bytes(content)
    assert damage(path) is None


def test_a_cut_missing_or_foreign_shard_is_found_by_every_rank(folder):
    (shard,) = (folder / "step_10").glob("shard-*")
    content = shard.read_bytes()
    shard.write_bytes(content[:-1])
    assert newest(folder, hashes=False).step == 5
    shard.unlink()
    assert newest(folder, hashes=False).step == 5
    shard.write_bytes(content)
    (folder / "step_10/shard-00002-model-00001-of-00001.safetensors").write_bytes(content)
    assert "is not one of its files" in str(damage(folder / "step_10"))


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ({"model.v": torch.zeros(16, 4)}, "model.v is missing"),
        ({"model.w": torch.zeros(8, 4)}, r"model.w is torch.float32 of \[16, 4\] in it"),
        ({"model.w": torch.zeros(16, 4, dtype=torch.float64)}, "torch.float64 of"),
    ],
)
def test_what_does_not_fit_is_refused(folder, target, said):
    with pytest.raises(ValueError, match=said):
        opened(folder / "step_10").shards.read(target)


def test_numbers_that_are_not_finite_never_replace_a_good_checkpoint(folder, group):
    with pytest.raises(InputError, match=r"step 15 not written: ema.w holds NaN"):
        save_sharded(checkpoint(15), {**tensors(15), "ema.w": torch.full((4,), float("nan"))}, folder, 1, group)
    assert sorted(path.name for path in folder.iterdir()) == ["step_10", "step_5"]


def write_and_die(folder: str, point: str) -> None:
    """For a process of its own: it is killed, or refused, while it saves."""
    begin_alone()
    plant(point)
    for step in (5, 10, 15):
        save_sharded(checkpoint(step), tensors(step, 4000), Path(folder), 2, dist.new_group(backend="gloo"))


@pytest.mark.parametrize("point", ["shards,3", "shards,-3", "seal,3", "seal,-3", "retire shards,3", "flush,-8"])
def test_killed_while_saving_the_last_or_the_new_checkpoint_is_whole(tmp_path, point):
    process = Launched("training.test_shards:write_and_die", [str(tmp_path), f"{point},kill"], tmp_path / "log")
    assert process.wait() == -9, process.output
    found = find(tmp_path)
    assert found is not None
    assert found.name in ("step_5", "step_10", "step_15")
    assert load(found).step >= (10 if "flush" not in point else 5)
    clean(tmp_path)
    assert not list(tmp_path.glob(".*"))


def test_a_full_disk_leaves_the_earlier_checkpoints(tmp_path):
    arguments = [str(tmp_path), "shards,3,full"]
    process = Launched("training.test_shards:write_and_die", arguments, tmp_path / "log")
    assert process.wait() == 1
    assert "step_15 not written (No space left on device; 0.0 MB needed" in process.output
    assert sorted(path.name for path in tmp_path.glob("step_*")) == ["step_10", "step_5"]
    assert not list(tmp_path.glob(".*"))


ALONE = ("trainer=fsdp", "trainer.devices=1", "trainer.save_every=6", "trainer.keep=9", "trainer.save_async=true")


def test_a_run_puts_a_damaged_checkpoint_aside_and_goes_back(tmp_path):
    assert launch_train(tmp_path / "run", *ALONE).wait() == 0
    expected = state_of(tmp_path / "run")
    assert launch_train(tmp_path / "other", *ALONE, "trainer.stop_at=12").wait() == 0
    shard = next((tmp_path / "other/checkpoints/step_12").glob("shard-*"))
    data = bytearray(shard.read_bytes())
    data[-5] ^= 1
    shard.write_bytes(data)
    process = launch_train(tmp_path / "other", *ALONE, "ckpt=last")
    assert process.wait() == 2, process.output
    assert "step_12.damaged now: start again with ckpt=last" in process.output
    assert launch_train(tmp_path / "other", *ALONE, "ckpt=last").wait() == 0
    assert state_of(tmp_path / "other") == expected


@pytest.mark.slow
def test_four_kills_of_two_ranks_while_they_write_lose_nothing(tmp_path):
    draw = random.Random(0)
    given = ("trainer=fsdp", "trainer.devices=2", "trainer.save_every=1", "trainer.save_async=true")
    given = (*given, "trainer.max_steps=20")

    def ranks(name: str, *more: str, fault: str = "") -> list[Launched]:
        arguments = [tiny_overrides(tmp_path / name, *given, *more), fault]
        return launch_ranks(2, "training.launch:_train", arguments, tmp_path / name)

    assert [rank.wait(300) for rank in ranks("straight")] == [0, 0]
    reached = 0
    for _ in range(4):
        point, call = (
            draw.choice(["shards", "seal", "flush", "retire shards"]),
            draw.choice([1, -1]) * draw.randint(1, 3),
        )
        victim = draw.choice([0, 1]) if point == "shards" else 0
        fault = f"training.faults:plant:{point},{call},kill,{victim}"
        both = ranks("run", "ckpt=last", fault=fault)
        assert both[victim].wait(120) == -9, both[victim].output
        assert both[1 - victim].wait(120) != 0
        found = find(tmp_path / "run/checkpoints")
        before, reached = reached, 0 if found is None else int(found.name.removeprefix("step_"))
        assert reached >= before
    assert [rank.wait(300) for rank in ranks("run", "ckpt=last")] == [0, 0]
    assert state_of(tmp_path / "run", 20) == state_of(tmp_path / "straight", 20)
