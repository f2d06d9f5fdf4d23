"""``imtok import``."""

from collections.abc import Sequence

from rich.console import Console

from imtok.command_line import compose_training
from imtok.paste import imtok_line
from imtok.zoo.command import run_import


def run(arguments: Sequence[str]) -> None:
    """Make a tokenizer of a public checkpoint."""
    console = Console(highlight=False)
    imported, folder = run_import(arguments, compose_training)
    console.print(imported.describe(str(folder)))
    console.print(f"evaluate: {imtok_line('eval', tokenizer=folder)}", soft_wrap=True, markup=False)
