"""``imtok publish``."""

from typing import cast

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from imtok.export.command import run_publish
from imtok.export.schema import PublishConfig


def run(config: DictConfig) -> None:
    """Write a folder for the hub."""
    settings = cast(PublishConfig, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(PublishConfig), config)))
    run_publish(settings, Console(highlight=False))
