"""The same command under torchrun and SLURM: as many processes as they say, and preemption with ckpt=last."""

import socket

import pytest
from training.launch import Launched
from training.runs import tiny_overrides

SETTINGS = ["trainer.max_steps=5", "trainer.save_every=100", "data.crops_per_photo=1"]


def variables(launcher, rank, port):
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if launcher == "torchrun":
        numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "GROUP_RANK": 0}
        return common | {name: str(number) for name, number in numbers.items()} | {"TORCHELASTIC_RUN_ID": "1"}
    numbers = {"SLURM_PROCID": rank, "SLURM_LOCALID": rank, "SLURM_NODEID": 0, "SLURM_JOB_ID": 4321}
    numbers |= {"SLURM_NTASKS": 2, "SLURM_NTASKS_PER_NODE": 2, "SLURM_NNODES": 1}
    return common | {name: str(number) for name, number in numbers.items()} | {"SLURM_JOB_NAME": "imtok"}


def launched(launcher, folder, name, *overrides, fault=""):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    given = tiny_overrides(folder, "trainer=ddp", "trainer.devices=2", *SETTINGS, *overrides)
    logs = [folder.parent / f"{name}.{rank}.log" for rank in range(2)]
    processes = [
        Launched("training.launch:_train", [given, fault], log, variables(launcher, rank, port))
        for rank, log in enumerate(logs)
    ]
    return [process.wait(120) for process in processes], "\n".join(process.output for process in processes)


@pytest.mark.parametrize("launcher", ["torchrun", "slurm"])
def test_a_preempted_job_saves_and_the_same_command_goes_on(tmp_path, launcher):
    """The signal may reach any rank first; Lightning's own answer to it would be a file of its own and a requeue."""
    folder = tmp_path / "run"
    codes, output = launched(launcher, folder, "first", "ckpt=last", fault="training.faults:plant:step,3,usr1,1")
    assert codes == [138, 138], output
    assert "MEMBER: 2/2" in output
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step_3"]
    assert not list(tmp_path.rglob("*.ckpt"))
    codes, output = launched(launcher, folder, "second", "ckpt=last")
    assert codes == [0, 0], output
    assert (folder / "summary.json").exists()


def test_settings_that_disagree_with_slurm_are_refused_in_one_line(tmp_path):
    given = tiny_overrides(tmp_path / "run", "trainer=ddp", "trainer.devices=2", *SETTINGS)
    environment = variables("slurm", 0, 1) | {"SLURM_NTASKS_PER_NODE": "4", "SLURM_NTASKS": "4"}
    process = Launched("training.launch:_train", [given, ""], tmp_path / "log", environment)
    assert process.wait() == 2
    line = (
        "imtok: trainer.devices=2 and trainer.num_nodes=1 are 2 processes, and srun started 4; give trainer.devices=4"
    )
    assert line in process.output
    assert "Traceback" not in process.output
    assert not (tmp_path / "run").exists()
