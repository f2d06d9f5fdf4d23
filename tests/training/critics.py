"""A small adversary, to test steps with two optimisers."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from training.runs import tiny_run

import imtok.objectives.reconstruction as reconstruction
import imtok.training.task as task
from imtok.losses.pixel import L2Loss
from imtok.objectives.reconstruction import ReconstructionObjective
from imtok.training.run import Run
from imtok.types import Loss, Losses, NetLosses


class Adversarial(ReconstructionObjective):
    """Reconstruction with a critic of one convolution, which learns from step ``start`` on."""

    def __init__(self, start: int = 0) -> None:
        super().__init__({"l2": L2Loss()})
        torch.manual_seed(7)
        self.critic = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.SiLU(), nn.Conv2d(4, 1, 1))
        self.start = start

    def forward(self, tokenizer, batch, step, generator):
        losses = super().forward(tokenizer, batch, step, generator)
        fooled = -self.critic(losses.shown.image).mean()
        return Losses(losses.total + 0.1 * fooled, {**losses.terms, "fooled": Loss(fooled, 0.1)}, losses.shown)

    def critic_loss(self, shown, step):
        if step < self.start:
            return None
        # the codes are among what is shown: nothing of the critic's loss may reach the tokenizer through them
        codes = shown.quantized.latents.mean() * self.critic[0].weight.mean()
        apart = self.critic(shown.image).mean() - self.critic(shown.target).mean()
        return NetLosses(apart + 0.1 * codes, {"critic": Loss(apart, 1.0), "codes": Loss(codes, 0.1)})


class Read(Adversarial):
    """With one more net, which reads the mean colour of the images from the codes, from step 1 on."""

    def __init__(self, start: int = 0, width: int = 8) -> None:
        super().__init__(start)
        self.reader = nn.Linear(width, 3)

    def nets(self):
        return {**super().nets(), "reader": self.reader}

    def net_start(self, name):
        return 1 if name == "reader" else super().net_start(name)

    def net_losses(self, name, shown, step):
        if name != "reader":
            return super().net_losses(name, shown, step)
        if step < 1:
            return None
        wrong = self.reader(shown.quantized.latents.mean(1)) - shown.target.mean((2, 3))
        value = wrong.square().mean()
        return NetLosses(value, {"colour": Loss(value, 1.0)})


def adversarial_run(folder: Path, *overrides: str, start: int = 0) -> Run:
    return replace(tiny_run(folder, *overrides), objective=Adversarial(start))


def read_run(folder: Path, *overrides: str) -> Run:
    """With a critic and one more net."""
    run = tiny_run(folder, *overrides)
    return replace(run, objective=Read(width=run.tokenizer.quantizer.dim))


def in_float64(run: Run) -> Run:
    """The same run in double precision, so that orders of summation do not show."""
    run.tokenizer.double()
    run.objective.double()
    to_float = task.to_float
    if not getattr(to_float, "doubled", False):

        def doubled(image):
            return image.double() / 127.5 - 1

        doubled.doubled = True
        task.to_float = reconstruction.to_float = doubled
    return run
