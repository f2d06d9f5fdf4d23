"""How often a training step waits for the device: each value that is read waits for all that was asked of it."""

import traceback
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from training.runs import run_tiny

from imtok.training.steps import Task

READS = (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero, torch.ops.aten.equal)
GAN = (
    "objective=vqgan",
    "~objective.losses.lpips",
    "objective.adversary.critic={_target_:imtok.critics.patchgan.PatchGAN,channels:8,halvings:1,norm:group}",
    "objective.adversary.critic_start=0",
    "objective.adversary.generator_start=0",
)
NO_RESTART = ("quantizer.restart_below=0.0",)  # which codes begin again is read, too


class Reads(TorchDispatchMode):
    """Counts by file and line what reads a value, but for the step counters of optimisers, which a CPU holds."""

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in READS:
            files = [frame for frame in traceback.extract_stack() if "/imtok/" in frame.filename]
            if not any("/torch/optim/" in frame.filename for frame in traceback.extract_stack()):
                self.found[f"{files[-1].filename.rpartition('/')[2]}:{files[-1].lineno}"] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "overrides",
    [
        NO_RESTART,
        (*NO_RESTART, *GAN),
        ("quantizer=fsq",),
        ("quantizer=lfq_14",),
        ("quantizer=bsq_18",),
        ("quantizer=ibq",),
    ],
    ids=lambda overrides: overrides[0] if overrides else "vq",
)
def test_a_step_waits_once(tmp_path, monkeypatch, overrides):
    counts, training_step = [], Task.training_step

    def counted(task, batch, index):
        with Reads() as reads:
            training_step(task, batch, index)
        counts.append(reads.found)

    monkeypatch.setattr(Task, "training_step", counted)
    run_tiny(tmp_path / "run", "trainer.max_steps=3", "trainer.log_every=10", *overrides)
    assert [sum(found.values()) for found in counts] == [1, 1, 1], counts
