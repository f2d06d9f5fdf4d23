"""``imtok import``: makes a tokenizer of a public checkpoint."""

from collections.abc import Callable, Sequence
from pathlib import Path

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
    console.print(f"evaluate: {imtok_line('eval', tokenizer=folder)}", soft_wrap=True, markup=False)


def run_import(arguments: Sequence[str], compose: Callable[[Sequence[str]], Config]) -> tuple[Imported, Path]:
    """Import as the command line says, and save the tokenizer.

    Args:
        arguments: ``KEY=VALUE`` each: source, path and out; image_size may be given.
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
    side = given.get("image_size")
    if side is not None and not (side.isdigit() and int(side) > 0):
        raise InputError(f"image_size must be a number of pixels, got {side}")
    source = find_source(given["source"])
    folder = Path(given["out"])
    claim_output(folder, CONFIG)
    imported = import_checkpoint(source, Path(given["path"]), compose, int(side) if side else None)
    imported.tokenizer.save(folder)
    return imported, folder
