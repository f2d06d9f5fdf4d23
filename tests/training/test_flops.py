"""Floating-point operations of a step, counted on shapes, and the share of a GPU's peak that a run writes."""

import copy
import csv

import pytest
import torch
from training.runs import run_tiny, tiny_run

from imtok.training import prepare
from imtok.training.flops import Flops, peak_tflops
from imtok.training.rehearsal import Rehearsal
from imtok.training.task import fixed
from imtok.types import Batch

GAN = (
    "objective=vqgan",
    "~objective.losses.lpips",
    "objective.adversary.critic={_target_:imtok.critics.patchgan.PatchGAN,channels:8,halvings:1,norm:group}",
    "objective.adversary.critic_start=0",
    "objective.adversary.generator_start=0",
)


def of_shapes(run, images=4):
    return Rehearsal(images, run.image_size, 13, False, run.config).flops(run.tokenizer, run.objective)


def of_a_step(run, images=4):
    tokenizer, objective = copy.deepcopy((run.tokenizer, run.objective))
    objective.begin(tokenizer)
    image = torch.zeros(images, 3, run.image_size, run.image_size, dtype=torch.uint8)
    batch = Batch(image, torch.full((images,), -1), torch.arange(images), [""] * images, caption=[""] * images)
    nets = objective.nets()
    with Flops() as counted:
        with fixed(nets.values()):
            losses = objective(tokenizer.train(), batch, 13, torch.Generator().manual_seed(0))
            losses.total.backward()
        for name in nets:
            objective.net_losses(name, losses.shown, 13).total.backward()
    return counted.total / images


@pytest.mark.parametrize("overrides", [(), GAN], ids=["plain", "critic"])
def test_shapes_count_what_a_real_step_counts(tmp_path, overrides):
    run = tiny_run(tmp_path, *overrides)
    assert of_shapes(run) == of_a_step(run) > 1e5


def test_counting_leaves_no_trace(tmp_path):
    run = tiny_run(tmp_path, *GAN)
    parts = torch.nn.ModuleList([run.tokenizer, run.objective])
    before, random = copy.deepcopy(parts.state_dict()), torch.get_rng_state()
    of_shapes(run)
    assert all(torch.equal(value, parts.state_dict()[name]) for name, value in before.items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in run.tokenizer.parameters())


def test_attention_and_its_gradient_count_as_on_a_gpu():
    query = torch.zeros(2, 3, 64, 16, requires_grad=True)
    with Flops() as counted:
        torch.nn.functional.scaled_dot_product_attention(query, query, query).sum().backward()
    products = 2 * 2 * 3 * 64 * 64 * 16  # of one product of all heads
    assert counted.total == (2 + 5) * products


def test_a_run_with_a_known_peak_writes_its_share(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "peak_tflops", lambda device: 0.01)
    run_tiny(tmp_path / "run", "trainer.max_steps=2", "trainer.log_every=1", "trainer.precision=bf16")
    with (tmp_path / "run/metrics.csv").open() as file:
        row = list(csv.DictReader(file))[-1]
    run = tiny_run(tmp_path)
    assert float(row["mfu"]) == pytest.approx(float(row["images_per_second"]) * of_shapes(run) / 0.01e12)


def test_a_gpu_is_known_by_its_name(monkeypatch):
    known = {"NVIDIA H100 80GB HBM3": 989.0, "NVIDIA H100 PCIe": 756.0, "NVIDIA A100-SXM4-80GB": 312.0}
    for name, peak in (known | {"NVIDIA RTX A4000": None, "Some GPU": None}).items():
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        assert peak_tflops(torch.device("cuda")) == peak
    assert peak_tflops(torch.device("cpu")) is None
