"""What small checkpoints of all sources share."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

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
