"""``imtok pack``."""

from omegaconf import DictConfig

from imtok.build import build_data
from imtok.data.command import run_pack
from imtok.data.schema import PackConfig
from imtok.image_commands import plain_values


def run(config: DictConfig) -> None:
    """Write shards of a data set."""
    plain = plain_values(config)
    run_pack(PackConfig(**{name: plain[name] for name in vars(PackConfig())}), build_data(plain))
