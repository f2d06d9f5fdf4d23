"""Two processes are one process: the same numbers, the same codebook, the same log, and none waits for ever."""

import json

import numpy as np
import pytest
import torch
from ranks import assert_same_log, assert_same_run, run_ranks, table, tensors
from training.launch import launch_ddp

from imtok.distributed import from_main, gather_values, launched_rank
from imtok.errors import InputError
from imtok.folders import config_folder
from imtok.training import steps as training_steps
from imtok.training import task as training_task

STEPS = "trainer.max_steps=20"
QUICK = ["vq", "fsq", "ema_vq"]
# pixels; scales that end at 16x16, 14x14 and 11x11 latents of 8x8 pixels
SIZES = {"var_msvq": 128, "tokenflow": 112} | dict.fromkeys(
    ("xqgan_msbr10p2", "xqgan_msvr10p2", "xqgan_msvr10p2_16384"), 88
)
# takes its own encoder's 569 latents; sample their codes or noise, each rank its own
OTHERS = {"hita", "binary_64", "elm_2", "elm_3", "elm_4", "fsp", "gumbel", "vq_diveq", "vq_gumbel_softmax"}
QUANTIZERS = sorted({path.stem for path in (config_folder() / "quantizer").glob("*.yaml")} - OTHERS)


def test_collectives_over_two_ranks(tmp_path):
    run_ranks(2, "training.ranks:collectives", [str(tmp_path)], tmp_path / "log")
    for rank in range(2):
        facts = json.loads((tmp_path / f"{rank}.json").read_text())
        assert facts["world"] == 2
        assert facts["sum"] == [3, 6]
        assert facts["mean"] == [1.5, 3]
        assert facts["gradient"] == [3, 6]  # of the mean's square: 2 x mean, as one process would have it
        assert facts["rows"] == [[1, 2], [2, 4]]
        assert facts["values"] == [{"rank": 0}, {"rank": 1}]
        assert facts["from_main"] == "rank 0"
        assert facts["said"] == "the disk is full"
        assert facts["gave_up"]


def test_in_one_process_collectives_change_nothing():
    assert from_main(lambda: 3) == 3
    assert gather_values("x") == ["x"]
    with pytest.raises(InputError, match="reason"):
        from_main(lambda: (_ for _ in ()).throw(InputError("reason")))


@pytest.mark.parametrize(
    ("environment", "main"),
    [
        ({}, True),
        ({"LOCAL_RANK": "1"}, False),
        ({"LOCAL_RANK": "0", "NODE_RANK": "1"}, False),
        ({"LOCAL_RANK": "0", "NODE_RANK": "0"}, True),
        ({"RANK": "0", "LOCAL_RANK": "0"}, True),
        ({"RANK": "2", "LOCAL_RANK": "0", "NODE_RANK": "1"}, False),
        ({"SLURM_PROCID": "3"}, False),
    ],
)
def test_exactly_one_process_is_the_first_before_they_meet(monkeypatch, environment, main):
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert (launched_rank() == 0) is main


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """The same runs in one process, in two, in more micro-batches, and moved from one number of ranks to another."""
    root = tmp_path_factory.mktemp("ranks")
    base = [STEPS, "trainer.batch_size=6", "trainer.clip=0.1"]
    saved = [*base, "trainer.save_every=10", "trainer.keep=9"]
    runs = {name: [f"quantizer={name}", *saved] for name in QUICK if name in QUANTIZERS}
    runs["critic"] = ["quantizer=vq", *base]
    split = {f"{name}_{k}": [*runs[name], f"trainer.accumulate={k}"] for name in ("vq", "critic") for k in (2, 3)}
    two = {name: given for name, given in split.items() if name.endswith("3")}
    for world, wanted in ((1, {**runs, **split}), (2, {**runs, **two})):
        run_ranks(world, "training.ranks:train_many", [str(root / str(world)), wanted], root / f"first.{world}")
    for world, before in ((1, 2), (2, 1)):
        moved = {"moved": [*runs["vq"], f"ckpt={root / str(before)}/vq/checkpoints/step_10"]}
        run_ranks(world, "training.ranks:train_many", [str(root / str(world)), moved], root / f"moved.{world}")
    return root


@pytest.mark.parametrize("name", [*(name for name in QUICK if name in QUANTIZERS), "critic"])
def test_two_ranks_train_like_one_process(compared, name):
    assert_same_run(compared / "2" / name, compared / "1" / name)
    assert_same_log(compared / "2" / name, compared / "1" / name)


@pytest.mark.parametrize("name", ["1/vq_2", "1/vq_3", "2/vq_3", "1/critic_2", "1/critic_3", "2/critic_3"])
def test_micro_batches_train_like_one_big_batch(compared, name):
    whole = compared / "1" / name.split("/")[1].split("_")[0]
    assert_same_run(compared / name, whole)
    assert_same_log(compared / name, whole)


@pytest.mark.parametrize("world", [1, 2])
def test_a_run_goes_on_with_another_number_of_ranks(compared, world):
    """The rows of the log too, of which one lies across the change."""
    assert_same_run(compared / str(world) / "moved", compared / "1/vq")
    rows, expected = table(compared / str(world) / "moved"), table(compared / "1/vq")[-4:]
    assert [row["step"] for row in rows] == [12, 15, 18, 20]
    for row, other in zip(rows, expected, strict=True):
        np.testing.assert_allclose(list(row.values()), list(other.values()), rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", QUANTIZERS)
def test_every_quantizer_takes_the_same_steps_on_two_ranks(tmp_path, name):
    """Three steps: sharp softmaxes and signs double a rounding error at each step, in one process as well."""
    steps = ["trainer.max_steps=3", "trainer.batch_size=4", "trainer.log_every=1"]
    runs = {name: [f"quantizer={name}", f"image_size={SIZES.get(name, 32)}", *steps]}
    for world in (1, 2):
        run_ranks(world, "training.ranks:train_many", [str(tmp_path / str(world)), runs], tmp_path / str(world))
    assert_same_run(tmp_path / "2" / name, tmp_path / "1" / name, step=3)
    assert_same_log(tmp_path / "2" / name, tmp_path / "1" / name)


def test_evaluation_is_the_same_on_one_two_and_three_ranks(tmp_path):
    numbers = [1, 7, 11, 12]
    for world in (1, 2, 3):
        run_ranks(world, "training.ranks:evaluate_many", [str(tmp_path), numbers], tmp_path / f"log{world}")
    for number in numbers:
        expected = json.loads((tmp_path / f"1.0.{number}.json").read_text())
        assert expected["images"] == number
        assert {"psnr", "ssim", "usage"} <= expected.keys()
        for world in (2, 3):
            for rank in range(world):
                found = json.loads((tmp_path / f"{world}.{rank}.{number}.json").read_text())
                assert found == expected


def test_ranks_draw_unlike_numbers_and_the_same_ones_after_a_resume(tmp_path):
    noise = f"training.faults:noise:{tmp_path}/noise"
    ranks = launch_ddp(tmp_path / "run", 2, "trainer.stop_at=6", fault=noise)
    assert [rank.wait() for rank in ranks] == [0, 0], ranks[0].output
    drawn = (tmp_path / "noise").read_text().split("\n")[:-1]
    values = [line.split()[1] for line in drawn]
    assert len(values) == len(set(values)) == 12
    back = f"ckpt={tmp_path}/run/checkpoints/step_6"
    (tmp_path / "noise").unlink()
    ranks = launch_ddp(tmp_path / "again", 2, "trainer.stop_at=6", fault=noise)
    assert [rank.wait() for rank in ranks] == [0, 0]
    assert sorted((tmp_path / "noise").read_text().split("\n")[:-1]) == sorted(drawn)
    (tmp_path / "noise").unlink()
    ranks = launch_ddp(tmp_path / "more", 2, back, "trainer.stop_at=8", fault=noise)
    assert [rank.wait() for rank in ranks] == [0, 0]
    assert not set((tmp_path / "noise").read_text().split("\n")[:-1]) & set(drawn)


def test_noise_differs_by_seed_step_rank_and_micro_batch(tmp_path, monkeypatch):
    task = training_task.TokenizerTask.__new__(training_task.TokenizerTask)
    seen = set()
    for seed, step, rank, micro in np.ndindex(3, 5, 4, 3):
        monkeypatch.setattr(training_steps, "rank", lambda rank=rank: rank)
        task.__dict__.update(seed=seed, step=step, _micro=micro)
        seen.add(task._seed_step().initial_seed())
    assert len(seen) == 3 * 5 * 4 * 3


def test_one_ranks_nan_skips_the_step_on_both(tmp_path):
    fault = "training.faults:nonfinite:nan,5,1"
    ranks = launch_ddp(tmp_path / "run", 2, fault=fault)
    assert [rank.wait() for rank in ranks] == [0, 0], ranks[0].output + ranks[1].output
    both = launch_ddp(tmp_path / "both", 2, fault="training.faults:nonfinite:nan,5")
    assert [rank.wait() for rank in both] == [0, 0]
    for name, value in tensors(tmp_path / "both", 14).items():
        torch.testing.assert_close(tensors(tmp_path / "run", 14)[name], value, rtol=0, atol=0)
    assert table(tmp_path / "run")[-1]["skipped"] == 1


def test_a_batch_that_does_not_divide_is_refused_and_nothing_is_written(tmp_path):
    ranks = launch_ddp(tmp_path / "run", 2, "trainer.batch_size=5")
    assert [rank.wait() for rank in ranks] == [2, 2]
    assert "multiple of processes x accumulate = 2 x 1, got 5" in ranks[0].output
    assert not (tmp_path / "run").exists()
