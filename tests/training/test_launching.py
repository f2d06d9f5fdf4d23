"""Who starts how many processes: nobody trains alone beside others, and a run starts its own ones by any command."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from training.launch import ROOT
from training.runs import run_tiny, tiny_overrides, write_images

from imtok.cli import run_hydra
from imtok.distributed import launched
from imtok.errors import InputError
from imtok.training.hardware import make_trainer
from imtok.training.settings import TrainerSettings

STEP = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_JOB_NAME": "imtok"}
TASKS = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "1"}
TORCHRUN = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "1"}
SEVERAL = {
    "torchrun": TORCHRUN,
    "srun": STEP | TASKS | {"SLURM_STEP_NUM_TASKS": "2", "ENVIRONMENT": "BATCH"},
    "srun without a script": STEP | TASKS,
    "srun that does not know of nodes": STEP | {"SLURM_NTASKS": "2"},
}
ALONE = {
    "nothing": {},
    "a batch script": STEP | TASKS | {"ENVIRONMENT": "BATCH"},
    "a shell of srun": STEP | TASKS | {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PTY_PORT": "40000"},
    "salloc": TASKS | {"SLURM_JOB_ID": "7"},
    "one task": STEP | {"SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1"},
    "one process of torchrun": TORCHRUN | {"WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"},
}


def settings(devices=1, strategy="auto"):
    return TrainerSettings(accelerator="cpu", devices=devices, strategy=strategy)


@pytest.fixture
def surroundings(monkeypatch):
    """An environment without any launcher, to which variables are added."""
    for name in list(os.environ):
        if name.startswith(("SLURM_", "OMPI_", "PMI_")) or name in {*TORCHRUN, "ENVIRONMENT", "NODE_RANK"}:
            monkeypatch.delenv(name)
    return lambda variables: [monkeypatch.setenv(name, value) for name, value in variables.items()]


@pytest.mark.parametrize("name", SEVERAL)
def test_several_processes_without_a_strategy_are_refused_before_anything_is_written(tmp_path, surroundings, name):
    surroundings(SEVERAL[name])
    line = f"{name.split()[0]} started 2 processes, and each would train a run of its own; give trainer=ddp"
    with pytest.raises(InputError, match=line):
        run_tiny(tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ALONE)
def test_a_process_that_is_alone_trains_alone(surroundings, name):
    surroundings(ALONE[name])
    assert (by := launched()) is None or by.processes == 1
    assert isinstance(make_trainer(settings()).strategy, SingleDeviceStrategy)


def test_devices_and_nodes_must_be_what_was_started(surroundings):
    surroundings(TORCHRUN | {"WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"})
    line = "are 2 processes, and torchrun started 8; give trainer.devices=4 trainer.num_nodes=2, or start 2"
    with pytest.raises(InputError, match=line):
        make_trainer(settings(strategy="ddp", devices=2))


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"devices": -1}, r"^trainer\.accelerator=cpu trainer\.devices=-1: `devices` selected with `CPUAccelerator`"),
        ({"strategy": "dpp"}, r"^trainer\.strategy=dpp is not known; give auto, ddp or fsdp$"),
    ],
)
def test_what_lightning_cannot_use_is_one_line_with_its_keys(surroundings, given, line):
    with pytest.raises(InputError, match=line) as error:
        make_trainer(settings(**given))
    assert "\n" not in str(error.value)


def test_processes_of_mpirun_are_named(surroundings):
    surroundings({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"})
    with pytest.raises(InputError, match="mpirun started 2 processes, which do not know of each other; use torchrun"):
        make_trainer(settings(strategy="ddp", devices=2))


def test_a_command_that_is_one_process_is_not_started_twice(surroundings, monkeypatch, capsys):
    surroundings(TORCHRUN)
    monkeypatch.setattr(sys, "argv", ["imtok eval", "tokenizer=nowhere"])
    with pytest.raises(SystemExit) as end:
        run_hydra("eval")
    assert end.value.code == 2
    assert "torchrun started 2 processes, but imtok eval runs as one" in capsys.readouterr().err


def test_several_devices_without_a_strategy_are_those_of_ddp(surroundings):
    surroundings({})
    auto = make_trainer(settings(devices=2), ["command"]).strategy
    named = make_trainer(settings(devices=2, strategy="ddp"), ["command"]).strategy
    assert type(auto) is type(named)
    assert isinstance(auto, DDPStrategy)
    assert isinstance(named, DDPStrategy)
    assert auto._ddp_kwargs == named._ddp_kwargs
    assert not auto._ddp_kwargs.get("find_unused_parameters")


COMMANDS = {
    "installed": [str(Path(sys.executable).with_name("imtok")), "train"],
    "module": [sys.executable, "-m", "imtok.cli", "train"],
    "package": [sys.executable, "-m", "imtok", "train"],
    "script": [sys.executable, str(ROOT / "train.py")],
}


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_starts_its_further_processes(tmp_path, command):
    trains(COMMANDS[command], tmp_path, "trainer=ddp", "trainer.devices=2", "trainer.max_steps=3")
    assert json.loads((tmp_path / "it's a run/summary.json").read_text())["steps"] == 3


@pytest.mark.slow
def test_further_processes_are_of_the_command_whatever_its_words_become(tmp_path):
    """A path by itself becomes two words, which are more than were given."""
    pictures = str(write_images(tmp_path / "pictures", 12))
    words = tiny_overrides(tmp_path, "data=folder", "trainer=ddp", "trainer.devices=2", "trainer.max_steps=3")
    given = [word for word in words if not word.startswith(("data=", "out="))]
    _carry_out([*COMMANDS["installed"], pictures, *given], tmp_path)
    assert json.loads((tmp_path / "it's a run/summary.json").read_text())["steps"] == 3


@pytest.mark.slow
def test_each_job_of_a_sweep_starts_its_own(tmp_path):
    trains(COMMANDS["installed"], tmp_path, "trainer.devices=2", "trainer.max_steps=3", "seed=1,2", "-m")
    for job in ("0", "1"):
        assert json.loads((tmp_path / "it's a run" / job / "summary.json").read_text())["steps"] == 3
        assert json.loads((tmp_path / "it's a run" / job / "run.json").read_text())["seed"] == int(job) + 1


def trains(command, folder, *overrides):
    given = [item for item in tiny_overrides(folder, *overrides) if not item.startswith("out=")]
    _carry_out([*command, *given], folder)


def _carry_out(words, folder):
    out = f"out='{folder}/it\\'s a run'"
    done = subprocess.run([*words, out], capture_output=True, text=True, cwd=folder, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
