"""``imtok publish``: writes a folder for the hub."""

from dataclasses import dataclass
from pathlib import Path

from omegaconf import MISSING, DictConfig
from rich.console import Console

from imtok.config import read_keys
from imtok.export.publish import publish
from imtok.paste import shell_line


@dataclass
class Keys:
    """A tokenizer, its report and where the folder for the hub goes. configs/publish.yaml explains each."""

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


def run(config: DictConfig) -> None:
    """Write the folder for the hub, and say what is not in it."""
    settings, console = read_keys(config, Keys), Console(highlight=False)
    report = None if settings.report is None else Path(settings.report)
    out = Path(settings.out)
    absent = publish(settings.tokenizer, out, report, settings.license, settings.image_size, programs=settings.programs)
    console.print(f"{', '.join(sorted(path.name for path in out.iterdir()))} in {out}", soft_wrap=True, markup=False)
    for name, why in absent.items():
        console.print(f"  no {name}: {why}", soft_wrap=True, markup=False)
    console.print(f"  upload: {shell_line('hf', 'upload', 'NAMESPACE/NAME', str(out))}", soft_wrap=True, markup=False)
