"""What small checkpoints of all sources share."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

LOSS = {"loss.discriminator.main.0.weight": torch.ones(3)}
CNN = {"channels": 32, "multipliers": [1, 2], "groups": 32}
TRUNK = {"width": 64, "depth": 2, "heads": 1}
CODES = {"codebook_size": 50}


@dataclass(frozen=True)
class Case:
    """A small model of a source.

    Attributes:
        recipe: Overrides that give the published settings.
        changes: Small numbers in their place, by section.
        file: What the checkpoint is called.
        write: Writes tensors into it as the source does.
        same: Parts of the tokenizer that the file has once: modules, each with that which it equals.
    """

    recipe: list[str]
    changes: dict
    file: str
    write: Callable[[dict, Path], None]
    same: dict[str, str] = field(default_factory=dict)


def with_averages(tensors):
    """Live weights that differ from the averages, which have no dots; the trainer's losses beside them."""
    live = {name: torch.randn_like(value) for name, value in tensors.items()}
    averages = {f"model_ema.{name.replace('.', '')}": value for name, value in tensors.items()}
    counters = {"model_ema.decay": torch.tensor(0.999), "model_ema.num_updates": torch.tensor(7)}
    return live | counters | averages | LOSS | {"model_ema.lossdiscriminatormain0weight": torch.ones(3)}


def write_flat(tensors, path):
    torch.save(tensors, path)
