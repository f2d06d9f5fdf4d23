"""The contract that every source of the zoo keeps: how a checkpoint of other code becomes a tokenizer's config."""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from imtok.zoo.files import Checkpoint
from imtok.zoo.table import Table, TableError

Config = dict[str, Any]


@dataclass(frozen=True)
class State:
    """The weights of a checkpoint, and what it says about them.

    Attributes:
        tensors: By the source's names.
        dropped: Keys that went before the table sees them (live weights beside their averages), with the reason.
        facts: What the file or a file beside it tells about the model.
    """

    tensors: Mapping[str, Tensor]
    dropped: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    def shape(self, key: str) -> tuple[int, ...]:
        """The shape of a tensor.

        Raises:
            TableError: If there is none of that name.
        """
        if key not in self.tensors:
            held = ", ".join(list(self.tensors)[:6])
            raise TableError(f"{key} is missing, from which the size of the model is read; there are {held}, ...")
        return tuple(self.tensors[key].shape)

    def count(self, pattern: str) -> int:
        """How many numbers stand for ``*`` in the keys that begin like ``pattern``; TableError if none does.

        Example:
            >>> State({"blocks.0.weight": Tensor(), "blocks.1.weight": Tensor()}).count("blocks.*.")
            2
        """
        expression = re.compile(re.escape(pattern).replace(r"\*", r"(\d+)"))
        numbers = {match[1] for match in map(expression.match, self.tensors) if match}
        if not numbers:
            held = ", ".join(list(self.tensors)[:6])
            raise TableError(f"no key begins with {pattern}, from which the size is read; there are {held}, ...")
        return len(numbers)


class Source(ABC):
    """A family of published checkpoints.

    Attributes:
        name: What ``imtok import source=`` calls it.
        title: Which checkpoints of which paper.
    """

    name: str
    title: str

    @abstractmethod
    def open(self, checkpoint: Checkpoint) -> State:
        """Find the weights in the file: averaged ones where it has them."""

    @abstractmethod
    def recipe(self, state: State) -> Sequence[str]:
        """Overrides of ``imtok train`` that give the published settings, those that no shape tells included."""

    @abstractmethod
    def settings(self, state: State, config: Config) -> Config:
        """The recipe's config with every size as the weights have it.

        Raises:
            TableError: If the weights do not tell.
        """

    @abstractmethod
    def table(self, config: Config) -> Table:
        """What becomes of every key, for a model of these settings."""
