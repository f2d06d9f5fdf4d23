"""Small runs with a real adversary."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel
from training.critics import in_float64
from training.runs import tiny_run

from imtok.critics.patchgan import PatchGAN
from imtok.distributed import rank
from imtok.losses.adversarial import Adversary
from imtok.losses.pixel import L1Loss, L2Loss
from imtok.objectives.reconstruction import ReconstructionObjective
from imtok.training import steps
from imtok.training.hardware import Whole
from imtok.training.run import Run, train

_DDP = ("trainer=ddp", "trainer.strategy=ddp")
SETTINGS: dict[str, dict[str, Any]] = {
    "fixed": {"weight": 0.3, "balance": "fixed", "critic_start": 0},
    "lecam": {"weight": 0.3, "lecam_weight": 0.1, "lecam_decay": 0.9, "r1_weight": 0.1, "r1_every": 3},
    "everything": {
        "weight": 0.5,
        "balance": "adaptive",
        "critic_start": 4,
        "generator_start": 7,
        "ramp_steps": 4,
        "lecam_weight": 0.1,
        "lecam_decay": 0.9,
        "r1_weight": 0.1,
        "r1_every": 3,
    },
}


def adversary(name: str) -> Adversary:
    """Of 16 x 16 pixels, with the same weights whenever it is asked for."""
    torch.manual_seed(7)
    return Adversary(PatchGAN(4, 2), **SETTINGS[name])


def gan_run(folder: Path, name: str, *overrides: str) -> Run:
    """A run of the default recipe at its smallest with one of the adversaries above."""
    objective = ReconstructionObjective({"l1": L1Loss(), "l2": L2Loss(0.5)}, adversary(name))
    return replace(tiny_run(folder, *overrides), objective=objective)


def train_gans(root: str, runs: dict[str, list[str]]) -> None:
    """Runs in float64, one after the other; a name begins with that of its adversary."""
    world = int(os.environ.get("WORLD_SIZE", 1))
    for name, overrides in runs.items():
        given = [*overrides, *((*_DDP, f"trainer.devices={world}") if world > 1 else ())]
        train(in_float64(gan_run(Path(root) / name, name.split(".")[0], *given)))


def count_bytes(root: str) -> None:
    """Bytes of gradients that this rank exchanges in each of three steps, and those of all weights that learn."""
    sent = {"ddp": 0, "besides": 0}
    configure, average = Whole.configure_ddp, steps.average_gradients

    def watched(strategy: Whole) -> None:
        configure(strategy)
        model = strategy.model
        assert isinstance(model, DistributedDataParallel)
        model.register_comm_hook(None, noted)

    def noted(_: object, bucket: torch.distributed.GradBucket) -> torch.futures.Future[torch.Tensor]:
        sent["ddp"] += bucket.buffer().nbytes
        return allreduce_hook(None, bucket)

    def averaged(parameters: Any) -> None:
        parameters = list(parameters)
        average(parameters)
        sent["besides"] += sum(parameter.grad.nbytes for parameter in parameters)

    Whole.configure_ddp, steps.average_gradients = watched, averaged
    given = (*_DDP, "trainer.devices=2", "trainer.max_steps=3", "trainer.accumulate=2", "trainer.batch_size=8")
    run = gan_run(Path(root) / "bytes", "fixed", *given)
    train(run)
    nets = {"ddp": run.tokenizer, "besides": run.objective.nets()["critic"]}
    learnt = {key: sum(p.nbytes for p in net.parameters() if p.requires_grad) for key, net in nets.items()}
    (Path(root) / f"bytes_{rank()}.json").write_text(json.dumps({"sent": sent, "learnt": learnt}))
