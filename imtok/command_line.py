"""Checks Hydra's flags and a command's words before Hydra acts on them, and resolves paths before the command runs."""

import logging
import os
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NoReturn, cast

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.singleton import Singleton
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from imtok.config import check_command, check_config, register_schemas, suggestion
from imtok.distributed import require_one_process
from imtok.errors import InputError
from imtok.explain import compose_or_explain, is_read
from imtok.folders import config_folder
from imtok.hints import Hints
from imtok.overrides import check_repeats, from_environment, settle
from imtok.paste import imtok_line, override, shell_line
from imtok.swaps import fit_parts

log = logging.getLogger(__name__)


def check_arguments(command: str) -> None:
    """Check every job that the command line asks for; leave Hydra's own questions (--help, --cfg) to Hydra."""
    arguments = _flags(command)
    for name, instead in _REFUSED.items():
        if getattr(arguments, name) is not None:
            raise InputError(f"--{name.replace('_', '-')} is not accepted, because nothing would check it; {instead}")
    if any((arguments.help, arguments.hydra_help, arguments.cfg, arguments.info)):
        return
    if arguments.shell_completion:
        return
    if command not in ("train", "export", "prior", "classify", "adapt", "quantize"):
        require_one_process(command)
    check_repeats(arguments.overrides)
    jobs = [list(arguments.overrides)]
    if arguments.multirun:
        parser, words = OverridesParser.create(), list(arguments.overrides)
        plain = [word for word in words if not (is_read(word) and parser.parse_override(word).is_sweep_override())]
        if not all(map(is_read, words)):
            check_command(command, plain, 0)  # says why; what sweeps is no mistake
        hidden = [word for word in words if word.lstrip("+").startswith("hydra.sweeper.params")]
        if hidden:
            raise InputError(f"{hidden[0]}: nothing would check it; give the sweep itself, such as -m seed=1,2")
        parsed = parser.parse_overrides(words)
        other = [word for word in words if word.startswith("hydra/sweeper=") and word != "hydra/sweeper=basic"]
        jobs = [plain] if other else list(_jobs(parsed))  # what another sweeper chooses is not known yet
    for number, overrides in enumerate(jobs):
        check_command(command, overrides, number if arguments.multirun else None)


def _flags(command: str) -> Namespace:
    """Hydra's flags, and the overrides among them."""
    parser = ArgumentParser(add_help=False)
    for short, name in {"-h": "help", "-m": "multirun", "-r": "run", "-sc": "shell-completion"}.items():
        parser.add_argument(short, f"--{name}", action="store_true")
    for name in ("hydra-help", "version", "resolve"):
        parser.add_argument(f"--{name}", action="store_true")
    for short, name in {"-p": "package", "-cp": "config-path", "-cn": "config-name", "-cd": "config-dir"}.items():
        parser.add_argument(short, f"--{name}")
    parser.add_argument("-c", "--cfg", choices=["job", "hydra", "all"])
    parser.add_argument("-i", "--info", const="all", nargs="?")
    parser.add_argument("--experimental-rerun")
    parser.add_argument("overrides", nargs="*")

    def refuse(message: str) -> NoReturn:
        raise InputError(f"{message}; imtok {command} --help shows every key")

    parser.error = refuse
    arguments, unknown = parser.parse_known_args()
    if unknown:
        key = unknown[0].partition("=")[0]
        raise InputError(
            f"{key}: no such flag{suggestion(command, key.lstrip('-'))}; keys are KEY=VALUE, without dashes"
        )
    return arguments


def _jobs(overrides: Sequence[Override]) -> Iterator[list[str]]:
    """The words of each job of a sweep, in Hydra's order: every combination, the last key changing fastest."""
    choices = dict[str, list[str]]()
    for one in overrides:
        key = one.get_key_element()
        if not one.is_sweep_override():
            choices[key] = [f"{key}={one.get_value_element_as_str()}"]
        elif one.is_discrete_sweep():
            choices[key] = [f"{key}={value}" for value in one.sweep_string_iterator()]
        else:
            raise InputError(f"{key}: a sweep takes a list such as {key}=1,2 or range(1,5), and no interval")
    return map(list, product(*choices.values()))


def settled(config: DictConfig) -> DictConfig:
    """The config with parts that fit and paths that are resolved, as it is stored."""
    hydra = HydraConfig.get()
    job = hydra.job.num if hydra.mode is RunMode.MULTIRUN else None
    for line in fit_parts(config, str(hydra.job.config_name), [*hydra.overrides.hydra, *hydra.overrides.task]):
        log.info(line)
    for line in from_environment(config):
        log.info(line)
    problems = settle(config, job)
    if problems:
        raise InputError("; ".join(problems))
    return config


_OWN = "put your YAML file into DIR/experiment/NAME.yaml and give 'hydra.searchpath=[file://DIR]' experiment=NAME"
_REFUSED = {
    "config_dir": "give 'hydra.searchpath=[file://DIR]', with which the files below DIR are options too",
    "config_name": _OWN,
    "config_path": _OWN,
    "experimental_rerun": "go on with a run by ckpt=last out=RUN, or repeat the overrides that it was started with",
}


def go_on(folder: Path, command: str = "train") -> str:
    """The command that goes on with a run that was stopped."""
    given = HydraConfig.get().overrides
    searched = [word for word in given.hydra if word.startswith("hydra.searchpath=")]
    dropped = {"ckpt", "out", "init_from", "init_from.path", "init_from.parts", "trainer.stop_at"}
    words = [word for word in given.task if word.lstrip("+").partition("=")[0] not in dropped]
    last = override("out", str(folder))
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        return f"{shell_line(*searched, *words, 'ckpt=last', last)} and the same launcher"
    return imtok_line(command, *searched, *words, "ckpt=last", last)


def job_words() -> list[str]:
    """The overrides of this job; none outside a command."""
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


MOMENT = "%Y-%m-%d_%H-%M-%S"  # the name of a folder that nobody named


def output_folder(config: DictConfig, name: str) -> Path:
    """The output folder: as given, or ``runs/NAME/TIME``, with the number of each job of a sweep."""
    if config.out is not None:
        return Path(config.out)
    job = HydraConfig.get().job.num if HydraConfig.get().mode is RunMode.MULTIRUN else None
    moment = time.strftime(MOMENT)
    return Path("runs") / name / (moment if job is None else f"{moment}_{job}")


def pasted(name: str) -> str:
    """The command line of this job, as it can be pasted into a shell."""
    if HydraConfig.get().mode is not RunMode.MULTIRUN:
        return shell_line("imtok", name, *sys.argv[1:])
    overrides = HydraConfig.get().overrides
    searched = [one for one in overrides.hydra if one.lstrip("+").startswith("hydra.searchpath=")]
    return shell_line("imtok", name, *searched, *overrides.task)


def compose_training(overrides: Sequence[str]) -> dict[str, Any]:
    """The training config of a recipe, as plain values; what only a run must say ("???") may be open.

    Raises:
        InputError: If there is no such recipe, or a word is mistaken.
    """
    register_schemas("train")
    running = Singleton.get_state()  # Hydra composes one config at a time, and may be running a command
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            hints = Hints("train", config_folder())
            config, problems = compose_or_explain("train", overrides, hints)
            fit_parts(config, "train", overrides)
            problems += [line for line in check_config(config, "train", hints) if ": required and not set" not in line]
            if problems:
                raise InputError("; ".join(problems))
            return cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    finally:
        Singleton.set_state(running)


def remember_program() -> None:
    """Note what was started, such as ``-m imtok train``, while ``sys.argv`` holds the words as they were given."""
    _program[:] = sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv[1:])]


_program: list[str] = []


def this_job(folder: Path) -> tuple[str, ...]:
    """The command that runs this job alone and into this folder; () where no command line began it.

    Of a sweep it is one job of several. ``imtok train`` is no file that Python could run, as Lightning would try.
    """
    if not HydraConfig.initialized():
        return ()
    given = HydraConfig.get().overrides
    kept = [word for word in given.hydra if not word.startswith(("hydra.mode=", "hydra.sweep"))]
    own = [word for word in given.task if word.lstrip("+").partition("=")[0] != "out"]
    return (sys.executable, *_program, *kept, *own, override("out", folder.absolute()))
