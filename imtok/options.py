"""What a file of ``configs`` says, with the files that it builds on."""

from copy import deepcopy
from functools import cache, reduce
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.singleton import Singleton
from omegaconf import OmegaConf

from imtok.folders import config_folder


def option(group: str, name: str) -> dict[str, Any]:
    """The arguments of an option, as ``group=name`` of a command line has them.

    Args:
        group: A folder of ``configs``, such as ``encoder``.
        name: A file in it, without ``.yaml``.

    Returns:
        Plain values, in which ``${...}`` are left as they are.

    Raises:
        hydra.errors.MissingConfigException: If there is no such file.

    Example:
        >>> titok = option("quantizer", "vq_titok")
        >>> titok["codebook_size"], titok["_target_"]
        (4096, 'imtok.quantizers.vq.VQ')
    """
    return deepcopy(_composed(group, name))


@cache
def _composed(group: str, name: str) -> dict[str, Any]:
    running = Singleton.get_state()  # Hydra composes one config at a time, and may be about one
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            plain = OmegaConf.to_container(compose(overrides=[f"+{group}={name}"]))
    finally:
        Singleton.set_state(running)
    return reduce(lambda node, part: node[part], group.split("/"), cast(dict[str, Any], plain))
