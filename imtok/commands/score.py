"""``imtok score``: measures generated images."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import MISSING, DictConfig
from rich.console import Console
from rich.table import Table

from imtok.build import build_protocol
from imtok.command_line import output_folder, pasted
from imtok.config import read_keys
from imtok.files import claim_inside, write_json
from imtok.image_commands import find_device, plain_values
from imtok.measures.generated import score
from imtok.measures.protocol import Protocol
from imtok.measures.report.origin import now
from imtok.measures.report.results import package_version
from imtok.measures.report.titles import number, reasons
from imtok.tables import print_whole
from imtok.text import terminal

SCORE = "score.json"


@dataclass
class Keys:
    """Generated images and what to hold them against.

    Attributes:
        images: A folder, or an npz with ``arr_0``.
        reference: The same, or an npz with ``mu`` and ``sigma``.
        protocol: A :class:`imtok.measures.protocol.Protocol`.
        extractor: A :class:`imtok.extractors.base.Extractor` in place of the protocol's; None = that.
        out: The folder of ``score.json``.
        batch_size: Images at a time.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: CPU threads for torch; None = torch's choice.
    """

    images: str = MISSING
    reference: str = MISSING
    protocol: Any = MISSING
    extractor: Any = None
    out: str | None = None
    batch_size: int = 64
    device: str = "auto"
    threads: int | None = None

    def check(self) -> list[str]:
        """What is out of range, one line each."""
        values = {"batch_size": self.batch_size, "threads": self.threads}
        return [f"{name} must be at least 1, got {v}" for name, v in values.items() if v is not None and v < 1]


def run(config: DictConfig) -> None:
    """Measure generated images."""
    protocol, folder = build_protocol(plain_values(config)), output_folder(config, "score")
    claim_inside(folder, SCORE)
    run_score(read_keys(config, Keys), protocol, folder, find_device(config), pasted("score"))


def run_score(config: Keys, protocol: Protocol, folder: Path, device: torch.device, command: str) -> None:
    """Measure generated images, write ``score.json`` and show it.

    Args:
        config: Images, reference and how many at a time.
        protocol: Extractor and its resizer.
        folder: Where ``score.json`` goes; it holds no other output.
        device: Where to compute.
        command: What makes it again.

    Raises:
        InputError: If images or reference cannot be read, or the weights cannot be had.
    """
    found = score(Path(config.images), Path(config.reference), protocol, device, config.batch_size)
    rows, console = (
        write_score(found | score_origin(config.images, config.reference, command), folder),
        Console(highlight=False),
    )
    console.print(f"[bold]{found['images']} images, protocol {found['protocol']['preset']}[/bold]")
    print_whole(rows, console)
    for line in reasons(found["absent"]):
        console.print(f"  [dim]not measured:[/dim] {terminal(line)}", soft_wrap=True)
    console.print(f"  {folder}/{SCORE}", soft_wrap=True, markup=False)


def score_origin(images: str, reference: str, command: str) -> dict[str, Any]:
    """What a score is of, for ``score.json``: paths as they were given, the time in UTC, versions and the command."""
    versions = {package: package_version(package) for package in ("imtok", "torch")}
    return {"data": images, "reference": reference, "when": now(), "command": command, "versions": versions}


def write_score(found: dict[str, Any], folder: Path) -> Table:
    """Write ``score.json``; returns what to show."""
    claim_inside(folder, SCORE)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / SCORE, found)
    rows = Table()
    rows.add_column("metric")
    rows.add_column("value", justify="right")
    for name, value in found["metrics"].items():
        rows.add_row(name, number(value))
    for name in found["absent"]:
        rows.add_row(name, "[dim]not measured[/dim]")
    return rows
