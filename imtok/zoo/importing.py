"""From a checkpoint of other code to a tokenizer of imtok."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.table import Column, Table

from imtok.errors import InputError
from imtok.tokenizer import Tokenizer
from imtok.zoo.averages import TAKEN
from imtok.zoo.files import PublicCheckpoint, read_checkpoint
from imtok.zoo.source import CheckpointSource, Config
from imtok.zoo.table import TableError

_TOKENIZER = ("encoder", "quantizer", "regularizer", "decoder", "space", "condition", "image_size")


@dataclass(frozen=True)
class Imported:
    """A tokenizer with the weights of a checkpoint.

    Attributes:
        tokenizer: In evaluation mode.
        mapped: Source keys by the part that they went to.
        dropped: How many source keys were dropped, by reason.
        kept: Which of the file's weights were taken, in words.
        assumed: What nothing in the file tells, in words.
    """

    tokenizer: Tokenizer
    mapped: Mapping[str, int]
    dropped: Mapping[str, int]
    kept: str = ""
    assumed: Sequence[str] = ()

    def describe(self, title: str) -> Table:
        """Parts, parameters and keys, for the terminal."""
        right = ("parameters", "source keys")
        rows = Table("part", "what", *(Column(name, justify="right") for name in right), title=title)
        for name, part in self.tokenizer.named_children():
            count = sum(parameter.numel() for parameter in part.parameters())
            rows.add_row(name, type(part).__name__, f"{count:,}", f"{self.mapped.get(name, 0):,}")
        for reason, count in self.dropped.items():
            rows.add_row("dropped", reason, "", f"{count:,}")
        return rows


def import_checkpoint(
    source: CheckpointSource,
    path: Path,
    compose: Callable[[Sequence[str]], Config],
    image_size: int | None = None,
    given: Mapping[str, Any] | None = None,
    others: Sequence[CheckpointSource] = (),
) -> Imported:
    """Read a checkpoint of other code.

    Args:
        source: Which code.
        path: The file.
        compose: Makes a training config of overrides: the published settings.
        image_size: Side of the images that the model was trained on, in pixels; None = the recipe's.
        given: What the user tells of it, since no shape does: some of ``source.keys``.
        others: Further families, one of which an error names if the file is of it.

    Raises:
        InputError: If the file cannot be read or is not of this code, which lists every key that does not fit; or if
            ``given`` has a key that this code does not have.
    """
    given = given or {}
    if unknown := sorted(given.keys() - set(source.keys)):
        takes = f"it takes {', '.join(source.keys)}" if source.keys else "its shapes and its recipe tell everything"
        raise InputError(f"source={source.name} does not take {', '.join(unknown)}; {takes}")
    checkpoint = read_checkpoint(path)
    # The recipe of the family, with what the shapes of the file say.
    try:
        state = replace(source.open(checkpoint), given={**given, "image_size": image_size})
        recipe = compose(source.recipe(state))
        sections = {name: recipe[name] for name in _TOKENIZER if recipe.get(name) is not None}
        if not sections.get("condition"):
            sections.pop("condition", None)  # none leaves no trace
        config = source.settings(state, sections)
        if image_size is not None:
            config["image_size"] = image_size
        if source.alike:
            state.assume(f"the file is of {source.title}; the names are the same in {source.alike}")
        # Our tokenizer, and the weights of the file under our names.
        torch.manual_seed(0)
        tokenizer = Tokenizer.from_config(config).eval()
        own = tokenizer.state_dict()
        converted = source.table(config).convert(state.tensors, {key: value.shape for key, value in own.items()})
        tokenizer.load_state_dict({**own, **converted.tensors})
    except TableError as error:
        family = _family(checkpoint, source, others)
        raise InputError(f"{path} is not a checkpoint of {source.title}{family}: {error}") from None
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is of a model that imtok cannot build ({error})") from None
    # What was taken, and what was not.
    mapped = Counter(targets[0].split(".")[0] for targets in converted.mapped.values())
    dropped = Counter([*state.dropped.values(), *converted.dropped.values()])
    averaged = TAKEN in state.dropped.values()
    kept = "averages (EMA)" if averaged or "ema" in state.kept else "live weights" if state.kept else "all weights"
    entry = f", entry {state.kept} of the file" if state.kept and not averaged else ""
    return Imported(tokenizer, mapped, dropped, f"{kept}{entry}", state.assumed)


def _family(checkpoint: PublicCheckpoint, source: CheckpointSource, others: Sequence[CheckpointSource]) -> str:
    """The other family that the names in a file are of, in words; empty = none is known."""
    names = checkpoint.names()
    found = [other for other in others if other.name != source.name and other.recognizes(names)]
    if not found or source.recognizes(names):
        return ""
    best = max(found, key=lambda other: len(other.marks))
    alike = f" or, as the names are the same, of {best.alike}" if best.alike else ""
    return f", but of {best.title}; give source={best.name}{alike}"
