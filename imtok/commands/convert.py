"""``imtok convert``: writes a store as a generator reads it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from omegaconf import MISSING, DictConfig
from rich.console import Console

from imtok.build import build_part
from imtok.export.convert import convert
from imtok.export.formats.base import Format
from imtok.export.store import TokenStore
from imtok.image_commands import plain_values


@dataclass
class Keys:
    """A token store, a generator's format and where that goes. configs/convert.yaml explains each."""

    store: str = MISSING
    format: Any = MISSING
    out: str = MISSING

    def check(self) -> list[str]:
        """What is out of range, one line each."""
        return []


def run(config: DictConfig) -> None:
    """Convert, and show what the consumer must be told."""
    form, out = cast(Format, build_part(plain_values(config), "format")), Path(config.out)
    report, console = convert(TokenStore(Path(config.store)), form, out), Console(highlight=False)
    console.print(f"{report['images']} images, {report['files']} files in {out}", soft_wrap=True, markup=False)
    for note in report.get("notes", ()):
        console.print(f"  {note}", soft_wrap=True, markup=False)
