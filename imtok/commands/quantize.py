"""``imtok quantize``."""

from omegaconf import DictConfig
from rich.console import Console

from imtok.command_line import output_folder
from imtok.image_commands import run_quantize


def run(config: DictConfig) -> None:
    """Give a tokenizer of continuous latents ids."""
    run_quantize(config, output_folder(config, "quantize"), Console(highlight=False))
