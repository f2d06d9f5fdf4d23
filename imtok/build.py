"""From config sections to objects: the only place where a user's own classes may be named."""

from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf

from imtok.config import TrainConfig
from imtok.data.base import Data
from imtok.errors import InputError
from imtok.objectives.base import Objective
from imtok.tokenizer import Tokenizer, construct
from imtok.training.run import Run

_TOKENIZER = ("encoder", "quantizer", "regularizer", "decoder", "space", "image_size")


def build_run(config: DictConfig, folder: Path) -> Run:
    """Build everything that a training config describes.

    Raises:
        InputError: If a part refuses its settings.
    """
    plain = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    typed = cast(TrainConfig, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(TrainConfig), config)))
    return Run(
        tokenizer=build_tokenizer(plain),
        objective=cast(Objective, build_part(plain, "objective")),
        data=build_data(plain),
        trainer=typed.trainer,
        optimizer=typed.optimizer,
        ema=typed.ema,
        folder=folder,
        image_size=typed.image_size,
        seed=typed.seed,
        config=plain,
        config_yaml=OmegaConf.to_yaml(config, resolve=True),
        ckpt=typed.ckpt,
        init_from=typed.init_from,
        wandb=typed.logger == "wandb",
        allow_change=tuple(typed.allow_change),
    )


def build_tokenizer(plain: dict[str, Any]) -> Tokenizer:
    """Build the tokenizer of a training config, its weights drawn from the config's seed."""
    torch.manual_seed(plain["seed"])
    config = {name: plain[name] for name in _TOKENIZER if plain.get(name) is not None}
    try:
        tokenizer = Tokenizer.from_config(config, packages=None)
        tokenizer.num_tokens((plain["image_size"], plain["image_size"]))
        tokenizer.freeze(plain.get("freeze", []))
    except (TypeError, ValueError) as error:
        raise InputError(f"the tokenizer cannot be built: {error}") from None
    return tokenizer


def build_data(plain: dict[str, Any]) -> Data:
    """Build the data section."""
    return cast(Data, build_part(plain, "data"))


def build_part(plain: dict[str, Any], section: str) -> Any:
    """Build one section; InputError that names it if it refuses its settings."""
    try:
        return construct(plain[section], packages=None)
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(f"{section}: {error}") from None
