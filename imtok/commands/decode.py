"""``imtok decode``: makes pictures of ids."""

from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import MISSING, DictConfig
from rich.console import Console

from imtok.conditions.given import DecodeConditionConfig
from imtok.export.pictures import decode_ids
from imtok.image_commands import SpendingKeys, given_condition, load_tokenizer
from imtok.measures.spending import Spending


@dataclass
class Keys(SpendingKeys):
    """A tokenizer, ids and where their pictures go. configs/decode.yaml explains each."""

    tokenizer: str = MISSING
    ids: str = MISSING
    out: str = MISSING
    image_size: int | None = None
    batch_size: int | None = None
    layout: str | None = None
    bits: int = 8
    positions: str | None = None
    device: str = "auto"
    threads: int | None = None
    condition: DecodeConditionConfig = field(default_factory=DecodeConditionConfig)

    def check(self) -> list[str]:
        """What is out of range, one line each."""
        least_one = {"batch_size": self.batch_size, "image_size": self.image_size, "threads": self.threads}
        problems = [f"{name} must be at least 1, got {v}" for name, v in least_one.items() if v is not None and v < 1]
        if self.bits not in (8, 16):
            problems.append(f"bits must be 8 or 16 per channel of a picture, got {self.bits}")
        if self.positions not in (None, "interpolated"):
            problems.append(f"positions must be interpolated or null (as the store says), got {self.positions}")
        return problems + self.condition.check() + self.check_spending()


def run(config: DictConfig) -> None:
    """Make pictures of ids."""
    tokenizer, device, size = load_tokenizer(config)
    told = given_condition(config)
    layout = None if config.layout is None else Path(config.layout)
    ids, out = Path(config.ids), Path(config.out)
    spending = Spending.of(config.length, config.target)
    count = decode_ids(
        tokenizer, ids, out, (size, size), config.batch_size, device, told, layout, spending, config.bits
    )
    named = "000000.png" + f" to {count - 1:06d}.png" * (count > 1)
    line = f"{count} pictures in {config.out}: {named}, in the order of {config.ids}"
    Console(highlight=False).print(line, soft_wrap=True, markup=False)
