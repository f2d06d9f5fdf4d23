"""``imtok eval``, the same as ``python eval.py``."""

from omegaconf import DictConfig
from rich.console import Console

from imtok.command_line import output_folder, pasted
from imtok.image_commands import run_eval


def run(config: DictConfig) -> None:
    """Measure tokenizers."""
    run_eval(config, output_folder(config, "eval"), pasted("eval"), Console(highlight=False))
