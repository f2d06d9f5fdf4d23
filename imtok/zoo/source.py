"""The contract that every source of the zoo keeps: how a checkpoint of other code becomes a tokenizer's config."""

import fnmatch
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from imtok.zoo.files import PublicCheckpoint
from imtok.zoo.table import Table, TableError

Config = dict[str, Any]


@dataclass(frozen=True)
class State:
    """The weights of a checkpoint, and what it says about them.

    Attributes:
        tensors: By the source's names.
        dropped: Keys that went before the table sees them (live weights beside their averages), with the reason.
        facts: What the file or a file beside it tells about the model.
        given: What the user tells: ``heads``, ``groups``, ``slots``, ``normalize``, ``image_size``.
        assumed: What nothing of these tells, in words; it grows while the settings are read.
        kept: Which of the file's weights these are: "ema", "state_dict", ...; empty = all that it has.
    """

    tensors: Mapping[str, Tensor]
    dropped: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    given: Mapping[str, Any] = field(default_factory=dict)
    assumed: list[str] = field(default_factory=list)
    kept: str = ""

    def shape(self, key: str) -> tuple[int, ...]:
        """The shape of a tensor.

        Raises:
            TableError: If there is none of that name.
        """
        if key not in self.tensors:
            held = ", ".join(list(self.tensors)[:6])
            raise TableError(f"{key} is missing, from which the size of the model is read; there are {held}, ...")
        return tuple(self.tensors[key].shape)

    def heads(self, width: int, part: str) -> int:
        """The number of attention heads of a transformer, which no shape tells.

        Args:
            width: Its width; published nets have a head for each 64 channels.
            part: The transformer, in words.

        Raises:
            TableError: If that gives no whole number, or the given number does not divide the width.
        """
        given = self.given.get("heads")
        if given is not None:
            if width % given:
                raise TableError(f"heads={given} does not divide the {width} channels of the {part}")
            return given
        if width % 64:
            raise TableError(f"the {part} has {width} channels, which is no multiple of 64; give heads=NUMBER")
        self.assume(f"{part}: {counted_heads(width // 64)} of 64 channels, as in the published nets (heads=NUMBER)")
        return width // 64

    def groups(self, widths: Sequence[int], part: str) -> dict[str, int]:
        """The setting ``groups`` of a convolutional net, which no shape tells: the public nets have 32 in every norm.

        Args:
            widths: Channels of its norms.
            part: The net, in words.

        Raises:
            TableError: If the number does not divide the channels.
        """
        given = self.given.get("groups")
        number = 32 if given is None else given
        if any(width % number for width in widths):
            found = ", ".join(map(str, dict.fromkeys(widths)))
            say = "give another number" if given is not None else "give groups=NUMBER"
            raise TableError(f"{number} groups do not divide the channels of the {part} ({found}); {say}")
        if given is None and min(widths) < 128:
            self.assume(f"{part}: 32 groups in each norm, as in the public nets (groups=NUMBER)")
        return {"groups": number} if min(widths) < 128 or number != 32 else {}

    def assume(self, words: str) -> None:
        """Note something that neither the weights nor the user tell."""
        if words not in self.assumed:
            self.assumed.append(words)

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


def counted_heads(number: int) -> str:
    """A number of heads, in words."""
    return f"{number} head{'s' * (number > 1)}"


class CheckpointSource(ABC):
    """A family of published checkpoints.

    Attributes:
        marks: Patterns, each of which some name of its weights matches; ``*`` = any characters.
        foreign: Patterns that no name of its weights matches.
        alike: Families whose files have the same names, in words; empty = none.
        keys: What a user may tell of it, since no shape does: ``heads``, ``groups``, ``slots``, ``normalize``.
        name: What ``imtok import source=`` calls it.
        title: Which checkpoints of which paper.
    """

    name: str
    title: str
    marks: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()
    alike: str = ""
    keys: tuple[str, ...] = ()

    def recognizes(self, names: Sequence[str]) -> bool:
        """Whether a file with these names is of this family, as far as names tell."""
        has, lacks = (
            [bool(fnmatch.filter(names, f"*{mark}*")) for mark in marks] for marks in (self.marks, self.foreign)
        )
        return bool(has) and all(has) and not any(lacks)

    @abstractmethod
    def open(self, checkpoint: PublicCheckpoint) -> State:
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
