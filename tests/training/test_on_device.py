"""What a run keeps, copies and asks of the processor where a GPU computes."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from training.runs import tiny_run, weights_of

from imtok.errors import InputError
from imtok.quantizers.fsq import FSQ
from imtok.training import hardware
from imtok.training.checkpoints import load
from imtok.training.ema import EMA
from imtok.training.hardware import with_workers
from imtok.training.optimizers import _fuses, make_optimizer
from imtok.training.run import train
from imtok.training.settings import OptimizerSettings, TrainerSettings
from imtok.training.steps import Task
from imtok.types import Batch


@pytest.mark.parametrize(
    ("cores", "processes", "workers"), [(2, 1, 1), (1, 1, 1), (16, 2, 7), (96, 8, 11), (256, 4, 16), (8, 8, 1)]
)
def test_workers_are_as_many_as_the_cores_allow(cores, processes, workers, monkeypatch):
    monkeypatch.setattr(hardware.os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    assert with_workers(TrainerSettings(workers="auto"), processes).workers == workers
    assert with_workers(TrainerSettings(workers=3), processes).workers == 3


def test_a_run_with_them_is_the_same(tmp_path):
    for workers in ("auto", "0"):
        train(tiny_run(tmp_path / workers, "trainer.max_steps=2", f"trainer.workers={workers}"))
    assert weights_of(tmp_path / "auto") == weights_of(tmp_path / "0")


def test_a_copy_of_the_weights_is_made_where_it_is_asked_for(tmp_path, monkeypatch):
    """``ema.decay=0``: nothing is kept beside the weights, and what is saved and measured are the weights."""
    run = tiny_run(tmp_path, "trainer.max_steps=3", "ema.decay=0")
    kept, begin = [], EMA.on_fit_start
    monkeypatch.setattr(EMA, "on_fit_start", lambda ema, *about: kept.append(ema) or begin(ema, *about))
    train(run)
    (ema,) = kept
    learning = list(run.tokenizer.parameters())
    assert all(average is latest for average, latest in zip(ema._averages, learning, strict=True))
    checkpoint = load(tmp_path / "checkpoints/step_3")
    assert ema.updates == 3
    for name, value in checkpoint.ema.items():
        assert torch.equal(value, checkpoint.model[f"tokenizer.{name}"])
    with torch.no_grad():
        learning[0].add_(1)
    assert not torch.equal(next(ema.average.parameters()), learning[0])
    assert torch.equal(next(ema.gather().parameters()), learning[0])
    assert next(ema.average.parameters()) is not learning[0]


def test_a_batch_is_pinned_with_all_that_travels(monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor.clone())
    image, label = torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.long)
    batch = Batch(image, label, torch.arange(2), ["a", "b"], caption=["x", "y"])
    made = batch.pin_memory()
    assert [one is other for one, other in zip(pinned, (image, label), strict=True)] == [True, True]
    assert (made.key, made.caption) == (["a", "b"], ["x", "y"])
    assert made.image is not image
    source = torch.zeros(2, 5)
    assert replace(batch, source=source).pin_memory().source is not source


def test_torchs_loader_pins_batches_of_imtok(monkeypatch):
    from torch.utils.data._utils.pin_memory import pin_memory

    monkeypatch.setattr(Batch, "pin_memory", lambda batch: replace(batch, key=["pinned"]))
    image, label = torch.zeros(1, 3, 4, 4, dtype=torch.uint8), torch.zeros(1, dtype=torch.long)
    assert pin_memory(Batch(image, label, torch.arange(1), ["a"])).key == ["pinned"]


def test_a_weight_that_no_loss_reaches_is_named_where_ddp_would_wait_for_it(tmp_path, monkeypatch):
    class Idle(FSQ):
        def __init__(self):
            super().__init__([4, 4])
            self.idle = nn.Linear(2, 2)

    run = tiny_run(tmp_path, "quantizer=fsq", "quantizer.levels=[4,4]")
    run.tokenizer.quantizer = Idle()
    monkeypatch.setattr(Task, "_finish_step", Task._require_gradients)  # as in a run under ddp
    with pytest.raises(InputError, match=r"2 of them: tokenizer.quantizer.idle.weight, tokenizer.quantizer.idle.bias;"):
        train(run)


def test_one_kernel_updates_all_weights_on_a_gpu_unless_the_section_says_how():
    net, section = nn.Linear(2, 2), {"_target_": "torch.optim.AdamW"}
    groups = [{"params": list(net.parameters())}]
    assert not _fuses(section, groups, "optimizer")
    on_gpu = [{"params": [type("OnGPU", (), {"is_cuda": True})()]}]
    assert _fuses(section, on_gpu, "optimizer")
    assert not _fuses({**section, "foreach": True}, on_gpu, "optimizer")
    assert not _fuses({"_target_": "torch.optim.Adamax"}, on_gpu, "optimizer")
    assert not make_optimizer(net, OptimizerSettings()).defaults["fused"]
