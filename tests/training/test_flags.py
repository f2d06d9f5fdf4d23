"""Flags of Lightning's Trainer: handed on, unless imtok decides the same by a key of its own."""

import inspect

import pytest
from lightning import Trainer
from training.runs import run_tiny, state_of

from imtok.config import check_command
from imtok.data.order.sampler import TrainBatches
from imtok.errors import InputError
from imtok.training.flags import OWNED, Again, check_flags, handed_on
from imtok.training.hardware import make_trainer
from imtok.training.settings import TrainerSettings

FLAGS = inspect.signature(Trainer).parameters


@pytest.mark.parametrize("name", sorted(OWNED))
def test_what_imtok_decides_is_refused_with_its_own_key(name):
    assert name in FLAGS
    assert check_flags({name: 1}) == [
        f"trainer.lightning.{name}: imtok does this itself, by {OWNED[name]}; leave it out"
    ]


def test_every_flag_is_either_handed_on_or_owned():
    free = FLAGS.keys() - OWNED.keys()
    assert free == {
        *("benchmark", "default_root_dir", "detect_anomaly", "fast_dev_run", "limit_train_batches"),
        *("max_time", "overfit_batches", "profiler", "sync_batchnorm"),
    }
    assert handed_on({"profiler": "simple", "overfit_batches": 2}) == {"profiler": "simple"}
    trainer = make_trainer(TrainerSettings(devices=1, accelerator="cpu", lightning={"detect_anomaly": True}))
    assert trainer._detect_anomaly


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "{max_epochs:3}",
            "trainer.lightning.max_epochs: imtok does this itself, by trainer.max_steps and trainer.stop",
        ),
        ("{profile:simple}", "trainer.lightning.profile: Lightning's Trainer has no such flag; there are benchmark, "),
        ("{overfit_batches:0.5}", "trainer.lightning.overfit_batches must be a whole number of at least 1, got 0.5"),
        ("simple", "trainer.lightning must be flags of Lightning's Trainer by name, got 'simple'"),
    ],
)
def test_mistakes_are_named_with_the_config(given, message):
    with pytest.raises(InputError) as caught:
        check_command("train", [f"trainer.lightning={given}"])
    assert message in str(caught.value)


def test_a_value_that_lightning_refuses_is_one_line():
    with pytest.raises(InputError, match=r"trainer.lightning=\{'profiler': 'slow'\}: "):
        make_trainer(TrainerSettings(devices=1, accelerator="cpu", lightning={"profiler": "slow"}))


def test_a_profile_is_in_the_run_folder_and_the_run_is_the_same(tmp_path):
    short = ("trainer.max_steps=4", "trainer.log_every=2")
    run_tiny(tmp_path / "plain", *short)
    run_tiny(tmp_path / "profiled", *short, "trainer.lightning={profiler:simple}")
    assert "run_training_batch" in (tmp_path / "profiled/fit-profile.txt").read_text()
    assert state_of(tmp_path / "profiled", 4) == state_of(tmp_path / "plain", 4)


def test_a_fast_run_takes_so_many_batches_and_logs_nothing(tmp_path):
    flags = "trainer.lightning={fast_dev_run:2}"
    outcome = run_tiny(tmp_path / "run", "trainer.max_steps=6", flags, "logger=lightning_csv")
    assert outcome.step == 2
    assert outcome.report is None
    assert not (tmp_path / "run/lightning_csv").exists()
    assert not (tmp_path / "run/checkpoints").exists()


def test_a_run_with_a_limit_is_saved_where_it_ends_and_goes_on(tmp_path):
    run_tiny(tmp_path / "straight", "trainer.max_steps=4")
    outcome = run_tiny(tmp_path / "run", "trainer.max_steps=4", "trainer.lightning={limit_train_batches:3}")
    assert outcome.step == 3
    run_tiny(tmp_path / "run", "trainer.max_steps=4", "ckpt=last")
    assert state_of(tmp_path / "run", 4) == state_of(tmp_path / "straight", 4)


def test_batches_to_overfit_come_again_in_the_same_crops():
    whole = TrainBatches(count=10, seed=0, global_batch=4, accumulate=2, total_steps=7)
    again = Again(2, whole)
    assert len(again) == len(whole) == 14
    assert list(again) == (list(whole)[:4] * 4)[:14]
    later = Again(2, TrainBatches(count=10, seed=0, global_batch=4, accumulate=2, start_step=3, total_steps=7))
    assert list(later) == list(again)[6:]


def test_a_run_that_overfits_learns_these_alone(tmp_path):
    short = ("trainer.max_steps=6", "trainer.log_every=1", "optimizer.lr=0.01", "quantizer.kmeans_start=false")
    run_tiny(tmp_path / "run", *short, "trainer.lightning={overfit_batches:1}", "trainer.stop_at=3")
    run_tiny(tmp_path / "run", *short, "trainer.lightning={overfit_batches:1}", "ckpt=last")
    run_tiny(tmp_path / "straight", *short, "trainer.lightning={overfit_batches:1}")
    assert state_of(tmp_path / "run", 6) == state_of(tmp_path / "straight", 6)
