"""Gradients are clipped before they are used, tokenizer's and critic's each by its norm, and logged as they were."""

import csv

import pytest
import torch
from training.gan import gan_run

from imtok.training import prepare
from imtok.training.run import train

STEPS = ("trainer.max_steps=3", "trainer.batch_size=4", "trainer.log_every=1")
LIMIT = 1e-3


@pytest.fixture
def used(monkeypatch):
    """Norms of the gradients that the optimisers took, in turn: the tokenizer's and the critic's."""
    norms, step = [], torch.optim.AdamW.step

    def watched(self, *arguments, **named):
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        norms.append(torch.stack([gradient.norm() for gradient in gradients]).norm().item())
        return step(self, *arguments, **named)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    monkeypatch.setattr(prepare, "try_optimizer", lambda *_: None)  # its steps on a net of its own are none of these
    return norms


def logged(folder):
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [float(row[name]) for row in rows for name in ("gradient_norm", "gradient_norm_critic")]


@pytest.mark.parametrize("micro", [1, 2])
def test_both_optimisers_take_gradients_of_the_limit_and_the_log_shows_what_they_were(tmp_path, used, micro):
    train(gan_run(tmp_path, "fixed", *STEPS, f"trainer.clip={LIMIT}", f"trainer.accumulate={micro}"))
    assert used == pytest.approx([LIMIT] * 6, rel=1e-2)  # torch's own adds 1e-6 to the norm
    assert all(norm > 2 * LIMIT for norm in logged(tmp_path))


def test_without_a_limit_they_take_them_as_they_are(tmp_path, used):
    train(gan_run(tmp_path, "fixed", *STEPS, "trainer.clip=null"))
    assert used == pytest.approx(logged(tmp_path), rel=1e-4)
    assert all(norm > 2 * LIMIT for norm in used)
