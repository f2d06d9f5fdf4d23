"""``imtok decode``."""

from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from imtok.export.pictures import decode_ids
from imtok.image_commands import given_condition, load_tokenizer


def run(config: DictConfig) -> None:
    """Make pictures of ids."""
    tokenizer, device, size = load_tokenizer(config)
    told = given_condition(config)
    count = decode_ids(tokenizer, Path(config.ids), Path(config.out), (size, size), config.batch_size, device, told)
    named = "000000.png" + f" to {count - 1:06d}.png" * (count > 1)
    line = f"{count} pictures in {config.out}: {named}, in the order of {config.ids}"
    Console(highlight=False).print(line, soft_wrap=True, markup=False)
