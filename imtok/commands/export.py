"""``imtok export``."""

from omegaconf import DictConfig
from rich.console import Console

from imtok.command_line import output_folder
from imtok.distributed import launched_rank
from imtok.image_commands import run_export


def run(config: DictConfig) -> None:
    """Write the ids of images into a store."""
    run_export(config, output_folder(config, "export"), Console(highlight=False, quiet=launched_rank() != 0))
