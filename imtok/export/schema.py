"""The configs of ``imtok convert`` and ``imtok publish``."""

from dataclasses import dataclass
from typing import Any

MISSING: Any = "???"  # as OmegaConf spells it, which only the last rows import


@dataclass
class ConvertConfig:
    """A token store, a generator's format and where that goes."""

    store: str = MISSING
    format: Any = MISSING
    out: str = MISSING

    def check(self) -> list[str]:
        """What is out of range, one line each."""
        return []


@dataclass
class PublishConfig:
    """A tokenizer, its report and where the folder for the hub goes."""

    tokenizer: str = MISSING
    out: str = MISSING
    report: str | None = None
    license: str | None = None
    programs: bool = True
    image_size: int | None = None

    def check(self) -> list[str]:
        """What is out of range, one line each."""
        if self.image_size is not None and self.image_size < 1:
            return [f"image_size must be at least 1, got {self.image_size}"]
        return []
