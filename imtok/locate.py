"""Where a tokenizer or a file of weights is: here, or on the Hugging Face Hub if its name begins with ``hf:``."""

import difflib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import RemoteEntryNotFoundError

from imtok.errors import InputError

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
_HUB = "hf:"
_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*(@.+)?")


def find_tokenizer(source: str | Path) -> Path:
    """The folder of a tokenizer, given itself, its run folder or ``hf:org/name[@revision]`` on the Hugging Face Hub.

    Raises:
        InputError: If there is none. Only what begins with ``hf:`` is asked of the hub.
    """
    if str(source).startswith(_HUB):
        return _fetch(*hub_name(str(source)))
    folder = Path(source)
    for candidate in (folder, folder / "tokenizer"):
        if (candidate / CONFIG).is_file():
            return candidate
    if folder.exists():
        reason = f"no {CONFIG} in it or in its tokenizer/); give a run folder or its tokenizer/ folder"
    else:
        reason = f"it does not exist); {_nearest(folder)}"
    raise InputError(f"{source} is not a tokenizer ({reason}")


def find_pretrained(name: str | Path, revision: str | None = None, **settings: Any) -> Path:
    """The folder of a tokenizer, as :func:`find_tokenizer`, or of ``org/name[@revision]`` where no folder is here.

    Args:
        name: A folder, or a model on the hub.
        revision: Branch, tag or commit of the model.
        **settings: Of the hub's client: ``token``, ``cache_dir``, ...

    Raises:
        InputError: If there is none, or a revision is given for a folder, or two are for a model.
    """
    model = str(name).removeprefix(_HUB)
    if isinstance(name, Path) or (model == name and (Path(name).exists() or not _NAME.fullmatch(model))):
        if revision is not None:
            raise InputError(f"revision={revision} is of a model on the hub, and {name} is a folder; leave it out")
        return find_tokenizer(name)
    repository, named = hub_name(str(name))
    if None not in (named, revision) and named != revision:
        raise InputError(f"{name} names another revision than revision={revision}; give one of them")
    try:
        return _fetch(repository, revision or named, **settings)
    except InputError as error:
        meant = _close(Path(name)) if model == name else None
        raise InputError(f"{error}{(meant and f'; did you mean the folder {meant}?') or ''}") from None


def hub_name(text: str) -> tuple[str, str | None]:
    """Model and revision of ``org/name[@revision]``, with or without ``hf:`` before it; InputError if it is none."""
    name = text.removeprefix(_HUB)
    if not _NAME.fullmatch(name):
        raise InputError(f"{text} is not a name on the hub; write {_HUB}org/name or {_HUB}org/name@revision")
    model, _, revision = name.partition("@")
    return model, revision or None


def on_hub(name: object) -> bool:
    """Whether a name asks for something on the hub, to be fetched where it is not in the cache."""
    return str(name).startswith(_HUB)


def fetch_file(name: str, files: Sequence[str]) -> Path:
    """The first of several files of ``hf:org/name[@revision]``, from the hub's cache if it lies there.

    Raises:
        InputError: If the model has none of them, or they cannot be fetched.
    """
    model, revision = hub_name(name)
    for file in files:
        try:
            return Path(hf_hub_download(model, file, revision=revision))
        except RemoteEntryNotFoundError:
            continue
        except Exception as error:  # the hub's client raises many kinds: offline, unknown, private, ...
            raise _not_fetched(name, error) from None
    raise InputError(f"{name} has no {' or '.join(files)}; download its file, and give the path of it")


def fetch_folder(name: str, patterns: Sequence[str]) -> Path:
    """A folder with the files of ``hf:org/name[@revision]`` that patterns name; errors as of :func:`fetch_file`."""
    model, revision = hub_name(name)
    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=list(patterns)))
    except Exception as error:  # as above
        raise _not_fetched(name, error) from None


def _not_fetched(name: str, error: Exception) -> InputError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    return InputError(f"{name} cannot be fetched from the hub ({reason}); download it elsewhere, and give its path")


def _fetch(model: str, revision: str | None, **settings: Any) -> Path:
    name = f"{_HUB}{model}{(revision and f'@{revision}') or ''}"
    try:
        folder = Path(snapshot_download(model, revision=revision, allow_patterns=[CONFIG, WEIGHTS], **settings))
    except Exception as error:  # the hub's client raises many kinds: offline, unknown, private, ...
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{name} cannot be fetched from the hub ({reason})") from None
    if not (folder / CONFIG).is_file():
        raise InputError(f"{name} is not a tokenizer of imtok (the model has no {CONFIG})")
    return folder


def _nearest(folder: Path) -> str:
    """What a path that does not exist may have meant."""
    close = _close(folder)
    if close is not None:
        return f"did you mean {close}?"
    if _NAME.fullmatch(str(folder)):
        return f"for a model on the hub give {_HUB}{folder}"
    return "give a run folder or its tokenizer/ folder"


def _close(folder: Path) -> str | None:
    """The path whose first missing part is one that is there and is called nearly the same; None if there is none."""
    there = next(parent for parent in folder.absolute().parents if parent.is_dir())
    wrong, *below = folder.absolute().relative_to(there).parts
    try:
        close = difflib.get_close_matches(wrong, [path.name for path in there.iterdir()], n=1)
    except OSError:
        return None
    meant = there.joinpath(*close, *below)
    return (str(meant) if folder.is_absolute() else os.path.relpath(meant)) if close else None
