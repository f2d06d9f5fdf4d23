"""The data of a run, which eval, export and quantize take where no other data is given."""

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from imtok.construct import check_stored
from imtok.data.base import OF_TRAINING, Data
from imtok.errors import InputError
from imtok.folders import config_folder
from imtok.locate import find_tokenizer
from imtok.options import option
from imtok.paste import override, shell_line

_OTHER = "give data=folder data.path=DIR, or another kind of data"


def take_data(config: DictConfig, sources: Sequence[str], split: str | None = None) -> str:
    """If ``data`` is not given, take the data of the run, or the bundled photographs if there is no run.

    Args:
        config: The config of a command that reads images; ``data`` and ``split`` are changed.
        sources: The tokenizers.
        split: The split of a run's data to take if ``split`` is null.

    Returns:
        A line that says which data it is.

    Raises:
        InputError: If the runs' data differ, name classes that are not trusted, or are gone.
    """
    boxes = config.data if config.data is not None and set(config.data) == {"boxes"} else {}
    if config.data is not None and not boxes:
        return f"data: {_line(_plain(config.data), config.split)}"
    runs = [_run(source) for source in sources]
    if not all(runs):
        config.data = option("data", "photos") | dict(boxes)
        nobodys = sources[runs.index(None)]
        return (
            f"data: {_line(_plain(config.data), config.split)}, since {nobodys} has no training run to take data from"
        )
    found = [_stored(run) for run in runs if run is not None]
    if any(section != found[0] for section in found):
        raise InputError(f"data must be given: {' and '.join(sources)} were trained on different images; {_OTHER}")
    _check(found[0], str(_source(cast(Path, runs[0]))))
    config.data = found[0] | dict(boxes)
    config.split = config.split or split
    return f"data of the run: {_line(found[0], config.split)}"


def data_words(section: dict[str, Any]) -> list[str] | None:
    """The words of a command line that give a data section; None if no file of ``configs/data`` is of its kind."""
    wanted, options = dict(_flat(section)), list[list[str]]()
    for kind in sorted(path.stem for path in (config_folder() / "data").glob("*.yaml")):
        have = dict(_flat(option("data", kind)))
        if have["_target_"] != section.get("_target_"):
            continue
        changed = {key: value for key, value in wanted.items() if have.get(key, _ABSENT) != value}
        words = [override(f"data.{key}" if key in have else f"+data.{key}", value) for key, value in changed.items()]
        options.append([f"data={kind}", *words])
    return min(options, key=len, default=None)


_CONFIG, _FACTS = "config.yaml", "run.json"
_ABSENT = object()


def _run(source: str) -> Path | None:
    """The run that a tokenizer is of: its own folder, or that in which ``tokenizer/`` or ``best/tokenizer/`` lies."""
    folder = find_tokenizer(source)
    places = [folder, folder.parent, folder.parent.parent] if not source.startswith("hf:") else []
    return next((place for place in places if (place / _FACTS).is_file()), None)


def _source(run: Path) -> Path:
    """The file that says what a run was trained on: its config, or where that is gone its facts, which hold it too."""
    return run / (_CONFIG if (run / _CONFIG).exists() else _FACTS)


def _stored(run: Path) -> dict[str, Any]:
    source = _source(run)
    try:
        found: Any = OmegaConf.to_container(OmegaConf.load(source))  # nothing is resolved: it is a stranger's
    except (OSError, ValueError, YAMLError, OmegaConfBaseException):
        found = None
    config = found.get("config") if source.name == _FACTS and isinstance(found, dict) else found
    section = config.get("data") if isinstance(config, dict) else None
    if not isinstance(section, dict) or "_target_" not in section:
        raise InputError(f"{source} does not say what the run was trained on; {_OTHER}")
    return {key: value for key, value in section.items() if key not in OF_TRAINING}


def _check(section: dict[str, Any], where: str) -> None:
    """Refuse the data of a stored run if it names other classes than data sets, or files that are gone."""
    try:
        check_stored(section, base=Data, key="data")
    except ValueError as error:
        raise InputError(f"{where}: {error}") from None
    for key, value in _leaves(section):
        if isinstance(value, str) and "${" in value:  # it would be looked up on this machine, in its environment too
            raise InputError(f"{where}: data.{key} must not refer to other values in a stored config, got {value!r}")
        local = isinstance(value, str) and "://" not in value and "{" not in value
        if key.rpartition(".")[2] in ("path", "val_path", "sources", "boxes") and local and not Path(value).exists():
            raise InputError(f"{where}: data.{key}={value} no longer exists{_near(value)}; {_OTHER}")


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every key and every value that is no dict or list, with where it stands."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _leaves(key)
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _leaves(value, f"{path}[{index}]")
    else:
        yield path, node


def _near(path: str) -> str:
    folder = Path(path).absolute().parent
    names = [item.name for item in folder.iterdir()] if folder.is_dir() else []
    close = difflib.get_close_matches(Path(path).name, names, n=1)
    relative = "" if Path(path).is_absolute() else f", seen from {Path.cwd()}"
    return f"{relative} (there is {close[0]})" if close else relative


def _line(section: dict[str, Any], split: str | None) -> str:
    words = data_words(section) or [override("data", section)]
    return f"{shell_line(*words)}, {f'split={split}' if split else 'the default split'}"


def _plain(node: Any) -> dict[str, Any]:
    return OmegaConf.to_container(node, resolve=True)  # type: ignore[return-value]


def _flat(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        where = f"{path}.{key}" if path else str(key)
        if isinstance(value, dict):
            yield from _flat(value, where)
        else:
            yield where, value
