"""From a checkpoint of other code to a tokenizer of imtok."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.table import Column, Table

from imtok.errors import InputError
from imtok.tokenizer import Tokenizer
from imtok.zoo.files import read_checkpoint
from imtok.zoo.source import Config, Source
from imtok.zoo.table import TableError

_TOKENIZER = ("encoder", "quantizer", "regularizer", "decoder", "space", "condition", "image_size")


@dataclass(frozen=True)
class Imported:
    """A tokenizer with the weights of a checkpoint.

    Attributes:
        tokenizer: In evaluation mode.
        mapped: Source keys by the part that they went to.
        dropped: How many source keys were dropped, by reason.
    """

    tokenizer: Tokenizer
    mapped: Mapping[str, int]
    dropped: Mapping[str, int]

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
    source: Source, path: Path, compose: Callable[[Sequence[str]], Config], image_size: int | None = None
) -> Imported:
    """Read a checkpoint of other code.

    Args:
        source: Which code.
        path: The file.
        compose: Makes a training config of overrides: the published settings.
        image_size: Side of the images that the model was trained on, in pixels; None = the recipe's.

    Raises:
        InputError: If the file cannot be read or is not of this code; lists every key that does not fit.
    """
    checkpoint = read_checkpoint(path)
    try:
        state = source.open(checkpoint)
        recipe = compose(source.recipe(state))
        sections = {name: recipe[name] for name in _TOKENIZER if recipe.get(name) is not None}
        if not sections.get("condition"):
            sections.pop("condition", None)  # none leaves no trace
        config = source.settings(state, sections)
        if image_size is not None:
            config["image_size"] = image_size
        torch.manual_seed(0)
        tokenizer = Tokenizer.from_config(config).eval()
        own = tokenizer.state_dict()
        converted = source.table(config).convert(state.tensors, {key: value.shape for key, value in own.items()})
        tokenizer.load_state_dict({**own, **converted.tensors})
    except TableError as error:
        raise InputError(f"{path} is not a checkpoint of {source.title}: {error}") from None
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is of a model that imtok cannot build ({error})") from None
    mapped = Counter(targets[0].split(".")[0] for targets in converted.mapped.values())
    dropped = Counter([*state.dropped.values(), *converted.dropped.values()])
    return Imported(tokenizer, mapped, dropped)
