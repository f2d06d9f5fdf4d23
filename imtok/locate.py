"""Where a tokenizer is: a folder here, or on the Hugging Face Hub if its name says so."""

import difflib
import os
import re
from pathlib import Path

from huggingface_hub import snapshot_download

from imtok.errors import InputError

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
_HUB = "hf:"


def find_tokenizer(source: str | Path) -> Path:
    """The folder of a tokenizer, given itself, its run folder or ``hf:org/name[@revision]`` on the Hugging Face Hub.

    Raises:
        InputError: If there is none. Only what begins with ``hf:`` is asked of the hub.
    """
    name = str(source)
    if name.startswith(_HUB):
        return _fetch(name)
    folder = Path(source)
    for candidate in (folder, folder / "tokenizer"):
        if (candidate / CONFIG).is_file():
            return candidate
    if folder.exists():
        reason = f"no {CONFIG} in it or in its tokenizer/); give a run folder or its tokenizer/ folder"
    else:
        reason = f"it does not exist); {_nearest(folder)}"
    raise InputError(f"{source} is not a tokenizer ({reason}")


def _fetch(name: str) -> Path:
    model, at, revision = name.removeprefix(_HUB).partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", model) or (at and not revision):
        raise InputError(f"{name} is not a name on the hub; write {_HUB}org/name or {_HUB}org/name@revision")
    try:
        return Path(snapshot_download(model, revision=revision or None, allow_patterns=[CONFIG, WEIGHTS]))
    except Exception as error:  # the hub's client raises many kinds: offline, unknown, private, ...
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{name} cannot be fetched from the hub ({reason})") from None


def _nearest(folder: Path) -> str:
    """What a path that does not exist may have meant."""
    there = next(parent for parent in folder.absolute().parents if parent.is_dir())
    wrong, *below = folder.absolute().relative_to(there).parts
    try:
        close = difflib.get_close_matches(wrong, [path.name for path in there.iterdir()], n=1)
    except OSError:
        close = []
    if close:
        meant = there.joinpath(close[0], *below)
        return f"did you mean {meant if folder.is_absolute() else os.path.relpath(meant)}?"
    if re.fullmatch(r"[\w.-]+/[\w.-]+", str(folder)):
        return f"for a model on the hub give {_HUB}{folder}"
    return "give a run folder or its tokenizer/ folder"
