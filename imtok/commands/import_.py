"""``imtok import``: makes a tokenizer of a public checkpoint."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from imtok.command_line import compose_training
from imtok.errors import InputError
from imtok.files import claim_output
from imtok.locate import CONFIG
from imtok.paste import imtok_line
from imtok.plain import read_words
from imtok.zoo.importing import Imported, import_checkpoint
from imtok.zoo.registry import SOURCES, find_source
from imtok.zoo.source import Config

_REQUIRED = {
    "source": f"which code it is of: {', '.join(SOURCES)}",
    "path": "the checkpoint file",
    "out": "the folder of the tokenizer",
}


def run(arguments: Sequence[str]) -> None:
    """Make a tokenizer of a public checkpoint."""
    console = Console(highlight=False)
    imported, folder = run_import(arguments, compose_training)
    console.print(imported.describe(str(folder)))
    console.print(f"taken: {imported.kept}", soft_wrap=True, markup=False)
    for words in imported.assumed:
        console.print(f"assumed: {words}", soft_wrap=True, markup=False)
    console.print(f"evaluate: {imtok_line('eval', tokenizer=folder)}", soft_wrap=True, markup=False)


def run_import(arguments: Sequence[str], compose: Callable[[Sequence[str]], Config]) -> tuple[Imported, Path]:
    """Import as the command line says, and save the tokenizer.

    Args:
        arguments: ``KEY=VALUE`` each: source, path and out; image_size, heads, groups, slots and normalize may be
            given.
        compose: Makes a training config of overrides.

    Returns:
        What was imported, and the folder that holds it.

    Raises:
        InputError: If an argument is wrong, or the checkpoint is.
    """
    given = read_words("import", arguments).keys
    missing = [f"{key}= ({what})" for key, what in _REQUIRED.items() if not given.get(key)]
    if missing:
        raise InputError(f"imtok import also needs {'; '.join(missing)}")
    side = _number(given, "image_size", "a number of pixels")
    told: dict[str, Any] = {
        name: _number(given, name, "a number") for name in ("heads", "groups", "slots") if name in given
    }
    if (normalize := given.get("normalize")) is not None:
        if normalize not in ("true", "false"):
            raise InputError(f"normalize must be true or false, got {normalize}")
        told["normalize"] = normalize == "true"
    source = find_source(given["source"])
    folder = Path(given["out"])
    claim_output(folder, CONFIG)
    imported = import_checkpoint(source, Path(given["path"]), compose, side, told, tuple(SOURCES.values()))
    imported.tokenizer.save(folder)
    return imported, folder


def _number(given: Mapping[str, str], name: str, what: str) -> int | None:
    """A key that is a positive whole number; None = it is not given."""
    value = given.get(name)
    if value is None:
        return None
    if not (value.isdigit() and int(value) > 0):
        raise InputError(f"{name} must be {what}, got {value}")
    return int(value)
