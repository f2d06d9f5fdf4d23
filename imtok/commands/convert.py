"""``imtok convert``."""

from pathlib import Path
from typing import cast

from omegaconf import DictConfig
from rich.console import Console

from imtok.build import build_part
from imtok.export.command import run_convert
from imtok.export.formats.base import Format
from imtok.image_commands import plain_values


def run(config: DictConfig) -> None:
    """Write a store as a generator reads it."""
    plain = plain_values(config)
    form = cast(Format, build_part(plain, "format"))
    run_convert(Path(config.store), form, Path(config.out), Console(highlight=False))
