"""Runs of recipes that are compiled and runs that are not, in a process without the type checks of tests."""

from pathlib import Path

import torch
from recipes import composed
from torch import nn

from imtok.commands.train import build_run
from imtok.training.run import train

STEPS = (
    *("size=tiny", "data.crops_per_photo=4", "data.held_out=[chelsea]", "trainer.max_steps=3", "trainer.batch_size=2"),
    *("trainer.log_every=1", "trainer.pictures_every=0", "trainer.accelerator=cpu", "trainer.workers=0"),
    *("trainer.precision=fp32", "trainer.tf32=null"),
)


def train_both(recipe: str, root: str, backend: str) -> None:
    """Three steps in which all nets learn, eager in ``root/eager`` and compiled in ``root/compiled``."""
    torch.set_num_threads(1)
    compile = nn.Module.compile
    parts = []

    def noted(part: nn.Module) -> None:
        parts.append(type(part).__name__)
        compile(part, backend=backend)

    nn.Module.compile = noted  # type: ignore[method-assign]
    for name in ("eager", "compiled"):
        config = composed(recipe, *STEPS, f"trainer.compile={str(name == 'compiled').lower()}")
        if config.objective.get("adversary"):
            config.objective.adversary.update(critic_start=0, generator_start=0, ramp_steps=0)
        config.out = f"{root}/{name}"
        train(build_run(config, Path(root) / name))
    (Path(root) / "parts.txt").write_text("\n".join(parts))
