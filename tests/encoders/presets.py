"""Every preset of a config group, whole or with small numbers in place of the published ones."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jaxtyping
from omegaconf import OmegaConf

CONFIGS = Path(__file__).parents[2] / "configs"
SMALL = {"channels": 16, "latent_channels": 12, "width": 16, "blocks": 1, "depth": 1}


def names(group: str) -> list[str]:
    """Names of the YAML files in a config group."""
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


def preset(group: str, name: str) -> dict:
    """The values of a YAML file."""
    return OmegaConf.to_container(OmegaConf.load(CONFIGS / group / f"{name}.yaml"), resolve=True)


def small(group: str, name: str) -> dict:
    """The same architecture, cheap enough to run in a test."""
    return {key: SMALL.get(key, value) if value is not None else None for key, value in preset(group, name).items()}


@contextmanager
def unchecked() -> Iterator[None]:
    """What users run: without the type checks of the tests, which torch.compile cannot trace."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
