"""Commands whose config Hydra composes."""

import logging
import sys
from collections.abc import Callable
from contextlib import nullcontext
from importlib import import_module
from typing import Any

import hydra
from omegaconf import DictConfig
from rich.console import Console

from imtok.command_line import check_arguments, remember_program, settled
from imtok.config import check_config, register_schemas
from imtok.continued import stored_config
from imtok.errors import InputError
from imtok.folders import config_folder
from imtok.overrides import as_typed, in_full
from imtok.plain import with_path
from imtok.sweeps import summed_up
from imtok.text import log_to_terminal

_LISTS = {"eval": ("tokenizer",), "pack": ("cache",)}  # keys that are called as paths are, and take lists


def run(command: str, refusing: Callable[[Callable[[], None]], None]) -> None:
    """Check the command line, then let Hydra compose the config and call the command.

    Args:
        command: Such as "train"; its words are those of ``sys.argv``.
        refusing: Runs something, and ends the program with one message where that is refused.
    """
    remember_program()
    # Hydra's parser takes -m only before or after all overrides; between them it is as clear.
    given = with_path(command, sys.argv[1:])
    ordered = sorted(given, key=lambda argument: argument not in ("-m", "--multirun"))
    sys.argv[1:] = as_typed(in_full(command, ordered), lists=_LISTS.get(command, ()))
    log_to_terminal()
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("hydra.utils").setLevel(logging.CRITICAL)  # a class that cannot be imported is refused by name
    stored, words = list[DictConfig](), sys.argv[1:]
    if command == "train":
        refusing(lambda: stored.extend(_stored(sys.argv[1:])))
    if not stored:
        refusing(lambda: check_arguments(command))
    register_schemas(command)

    def entry(config: DictConfig) -> Any:
        found, sys.argv[1:] = stored[0] if stored else config, words
        results = list[Any]()
        refusing(lambda: results.append(import_module(f"imtok.commands.{command}").run(settled(found))))
        return results[0]

    several = any(word in ("-m", "--multirun") for word in words)
    with summed_up(Console(highlight=False)) if several else nullcontext():
        hydra.main(version_base="1.3", config_path=str(config_folder()), config_name=command)(entry)()


def _stored(words: list[str]) -> list[DictConfig]:
    """The config of the run that goes on, once it is checked; Hydra is left with where that is."""
    config = None if any(word.startswith("-") for word in words) else stored_config(words)
    if config is None:
        return []
    problems = check_config(config, "train")
    if problems:
        listed = "".join(f"\n  {problem}" for problem in problems)
        raise InputError(f"the config of the run does not hold with what is typed:{listed}")
    sys.argv[1:] = [word for word in words if word.startswith(("ckpt=", "out=", "hydra."))]
    return [config]
