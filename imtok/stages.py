"""Recipes of several stages: each is a run of its own, and starts from the weights of the one before."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

import imtok
from imtok.command_line import go_on
from imtok.distributed import launched_rank
from imtok.errors import InputError
from imtok.folders import config_folder
from imtok.paste import override, shell_line
from imtok.training.finish import SUMMARY
from imtok.training.folder import CONFIG, STAGES, has_begun

# What the command line says of the last stage alone; all else is said of every stage.
_LAST = {
    *("out", "ckpt", "init_from", "freeze", "allow_change", "stages", "name", "note", "experiment"),
    *("objective", "optimizer", "schedule", "ema", "measure", "callback"),
}
_LAST_KEYS = {"trainer.stop_at", "trainer.best"}
_DEATH_OF_PARENT = 1  # PR_SET_PDEATHSIG of Linux


def first_stages(config: DictConfig, folder: Path, console: Console) -> str | None:
    """Carry out the stages that come before a run, as far as they are not done, each in a process of its own.

    Args:
        config: Of the last stage. Its ``stages`` has a section for each recipe that comes before it, in order, which
            holds what differs from the recipe: other options by the names of their groups, and keys.
        folder: Of the last stage. The others lie in its ``stages``, each in a folder of the recipe's name.
        console: For a line at the start of each.

    Returns:
        What the last stage starts from; None = there are no stages before it, or it has begun.

    Raises:
        InputError: If a stage is refused, or stages are in the way of another run.
    """
    place, ckpt = folder / STAGES, config.ckpt
    if names_a_run(config.init_from) or ckpt not in (None, "last") or has_begun(folder):
        return None
    names = list(config.stages or {})
    if not names:
        if place.is_dir() and not (folder / CONFIG).exists():
            raise InputError(f"out={folder} holds the first stages of a run; give the whole command that began them")
        return None
    if launched_rank() == 0:
        if ckpt is None and place.is_dir():
            raise InputError(f"out={folder} holds stages of a run; give another folder, or ckpt=last to go on with it")
        for number, name in enumerate(names, 1):
            if not _done(place / name):
                what = f"stage {number} of {len(names) + 1}, {name}"
                _carry_out(stage_words(config, place, number - 1), place / name, what, console)
        console.print(f"stage {len(names) + 1} of {len(names) + 1}, {config.name}", soft_wrap=True, markup=False)
    return str(place / names[-1])


def names_a_run(init_from: Any) -> bool:
    """Whether ``init_from`` of a config says whose weights are taken, and not only of which parts."""
    return bool(init_from.get("path")) if isinstance(init_from, Mapping) else init_from is not None


def stage_words(config: DictConfig, place: Path, index: int) -> list[str]:
    """The words of ``imtok train`` that carry out a stage, or go on with it.

    Args:
        config: Of the last stage.
        place: The folder of the stages.
        index: Of the stage.
    """
    names = list(config.stages)
    name, given = str(names[index]), HydraConfig.get().overrides
    searched = [word for word in given.hydra if word.startswith("hydra.searchpath=")]
    kept = [word for word in given.task if not _is_last(word.lstrip("+~").partition("=")[0])]
    own = cast(dict[str, Any], OmegaConf.to_container(config.stages[name])) if config.stages[name] else {}
    groups = {path.name for path in config_folder().iterdir() if path.is_dir()}
    chosen = {key: value for key, value in own.items() if key in groups and isinstance(value, str)}
    changed = [override(key, value) for key, value in chosen.items()]
    changed += [f"++{override(key, value)}" for key, value in _flat(own) if key not in chosen]
    source = [override("init_from", str(place / names[index - 1]))] if index else []
    recipe = [f"experiment={name}", *kept, *changed, *source]
    return [*searched, *recipe, "stages=null", "ckpt=last", override("out", str(place / name))]


def _carry_out(words: Sequence[str], place: Path, what: str, console: Console) -> None:
    """Carry out one stage, and end this process where the stage has ended before its last step.

    Raises:
        InputError: If the stage is refused.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise InputError(
            f"{what} is to come first, and a launcher starts one stage at a time; give it "
            f"{shell_line('imtok', 'train', *words)}, and then this command again"
        )
    console.print(f"{what}:\n  {shell_line('imtok', 'train', *words)}", soft_wrap=True, markup=False)
    code = _run([sys.executable, "-m", "imtok.cli", "train", *words])
    if code == 0 and _done(place):
        return
    if code in (0, *range(129, 160)):
        console.print(f"stopped in {what}; go on with: {go_on(place.parents[1])}", soft_wrap=True, markup=False)
    if code == 2:
        raise InputError(
            f"{what} was refused, as it says above; stages.{place.name}.KEY=VALUE sets a key of this stage alone, and "
            "init_from=RUN starts from a run that is there"
        )
    sys.exit(code)


def _run(command: Sequence[str]) -> int:
    """Carry out a command with the signals that this process gets; its exit code, as a shell gives it."""
    search = os.pathsep.join([str(Path(imtok.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": search}, preexec_fn=_end_with_parent)

    def hand_on(number: int, _frame: Any) -> None:
        process.send_signal(number)

    watched = {signal.SIGTERM: hand_on, signal.SIGUSR1: hand_on, signal.SIGINT: lambda *_: None}  # Ctrl-C reaches both
    before = {number: signal.signal(number, handler) for number, handler in watched.items()}
    try:
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code


def _end_with_parent() -> None:
    """Let a stage end when the command that waits for it is killed, so that the same command finds its folder free."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DEATH_OF_PARENT, signal.SIGKILL)


def _done(place: Path) -> bool:
    return (place / SUMMARY).is_file() and (place / "tokenizer").is_dir()


def _is_last(key: str) -> bool:
    return key in _LAST_KEYS or key.split(".")[0].split("/")[0] in _LAST


def _flat(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of nested sections, after its key."""
    for key, value in node.items():
        where = f"{path}.{key}" if path else str(key)
        if isinstance(value, Mapping) and value:
            yield from _flat(value, where)
        else:
            yield where, value
