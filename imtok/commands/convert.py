"""``imtok convert``: writes a store as a generator reads it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from omegaconf import MISSING, DictConfig
from rich.console import Console

from imtok.build import build_part
from imtok.export.convert import convert
from imtok.export.digits import Digits
from imtok.export.formats.base import Format
from imtok.export.store import TokenStore
from imtok.image_commands import plain_values


@dataclass
class Keys:
    """A token store, a generator's format and where that goes. configs/convert.yaml explains each."""

    store: str = MISSING
    format: Any = MISSING
    out: str = MISSING
    digits: int | None = None
    base: int | None = None
    length: int | None = None

    def check(self) -> list[str]:
        """What is out of range, one line each."""
        least = {"digits": self.digits, "base": self.base}
        problems = [f"{name} must be at least 2, got {v}" for name, v in least.items() if v is not None and v < 2]
        if self.length is not None and self.length < 1:
            problems.append(f"length must be at least 1 token, got {self.length}")
        if self.base is not None and self.digits is None:
            problems.append(f"base={self.base} needs digits=NUMBER, into how many digits an id is split")
        return problems


def run(config: DictConfig) -> None:
    """Convert, and show what the consumer must be told."""
    form, out = cast(Format, build_part(plain_values(config), "format")), Path(config.out)
    store, console, digits = TokenStore(Path(config.store)), Console(highlight=False), None
    if config.digits is not None:
        digits = Digits.of(tuple(store.manifest["vocab_sizes"]), config.digits, config.base)
    report = convert(store, form, out, digits, config.length)
    console.print(f"{report['images']} images, {report['files']} files in {out}", soft_wrap=True, markup=False)
    for note in report.get("notes", ()):
        console.print(f"  {note}", soft_wrap=True, markup=False)
