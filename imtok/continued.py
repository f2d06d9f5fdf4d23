"""``imtok train ckpt=last out=RUN`` alone: a run goes on with the config that it has stored, and what is typed."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torchvision.transforms.v2 import Transform
from yaml import YAMLError

from imtok.construct import check_stored, stored_class
from imtok.data.base import OF_ANY
from imtok.errors import InputError
from imtok.explain import SEVERAL, is_read
from imtok.folders import config_folder
from imtok.signatures import EXPECTED
from imtok.training.folder import CONFIG
from imtok.training.parts import BASES
from imtok.training.resume import as_now


def stored_config(words: Sequence[str]) -> DictConfig | None:
    """The config of the run that a command line goes on with.

    Args:
        words: Of ``imtok train``.

    Returns:
        The stored config, into which ``ckpt``, ``out`` and all other words are put; None if the words start a run, or
        compose a config of their own, as ``experiment=NAME`` and ``quantizer=fsq`` do.

    Raises:
        InputError: If the stored config cannot be read, names classes that are not trusted, or refers to other values;
            or if a word names a key that it does not have.
    """
    words = [word for word in words if not word.startswith("hydra.")]
    if not all(map(is_read, words)):
        return None
    overrides = OverridesParser.create().parse_overrides(words)
    given = {override.key_or_group: override.value() for override in overrides}
    groups = {path.name for path in config_folder().iterdir() if path.is_dir()}
    path = Path(str(given.get("out", ""))).expanduser() / CONFIG
    composes = any(key.split("/")[0] in groups for key in given) or any(one.is_sweep_override() for one in overrides)
    if given.get("ckpt") != "last" or composes or not path.is_file():
        return None
    config = cast(DictConfig, OmegaConf.create(_DEFAULTS | _trusted(path)))
    OmegaConf.update(config, "trainer.stop_at", None)  # these were for the start before
    config.allow_change, config.init_from = [], None
    for override in overrides:
        key, (parent, _, name) = override.key_or_group, override.key_or_group.rpartition(".")
        there = OmegaConf.select(config, key, default=_ABSENT) is not _ABSENT
        if not there and not override.is_add():
            raise InputError(f"{key}: the run in {path.parent} has no such key; +{key}=VALUE adds it")
        if override.is_delete():
            node = OmegaConf.select(config, parent) if parent else config
            del node[name]
        else:
            OmegaConf.update(config, key, override.value(), merge=False, force_add=True)
    return config


def _trusted(path: Path) -> dict[str, Any]:
    """A stored config, in which every class is one that belongs where it stands."""
    try:
        found = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path} cannot be read ({reason}); give the words that the run was started with") from None
    if not isinstance(found, dict):
        raise InputError(f"{path} holds no config; give the words that the run was started with")
    config = as_now({str(key): value for key, value in found.items()})
    for key, value in _texts(config):
        if "${" in value:
            raise InputError(f"{path}: {key} must not refer to other values in a stored config, got {value!r}")
    try:
        for name, section in config.items():
            _check(name, section)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
    return config


def _check(name: str, section: Any) -> None:
    """Refuse classes of a section that do not belong there; ValueError that names the key."""
    if name == "data" and isinstance(section, dict):
        _check_augment(section.get("augment"))
        section = {key: value for key, value in section.items() if key not in OF_ANY}
    if name in EXPECTED and section:
        check_stored(section, base=EXPECTED[name], key=name)
    elif name in SEVERAL and isinstance(section, dict):
        for inner, part in section.items():
            _check_library(part, BASES[name], f"{name}.{inner}")
    elif name in BASES:
        _check_library(section, BASES[name], name)
    else:
        check_stored(section, key=name)


def _check_augment(parts: Any) -> None:
    """Check transforms of torchvision, which are in no package of imtok."""
    for index, part in enumerate(parts if isinstance(parts, list) else ()):
        if not isinstance(part, dict) or "_target_" not in part:
            raise ValueError(f"data.augment[{index}]: a transform must be given by a _target_, got {part!r:.80}")
        _check_library(part, (Transform,), f"data.augment[{index}]")


def _check_library(part: Any, bases: tuple[type, ...], key: str) -> None:
    """Check a part that may be of a library: its section holds keys of imtok, too, which its class does not take."""
    if not isinstance(part, dict):
        return check_stored(part, key=key)
    if part.get("_target_") is not None:
        try:
            stored_class(part["_target_"], ("imtok",), bases)
        except ValueError as error:
            raise ValueError(f"{key}.{error}") from None
    for name, value in part.items():
        if key.startswith("optimizer") and isinstance(value, dict):  # critic, beside, and nets by name
            _check_library(value, bases, f"{key}.{name}")
        elif name != "_target_":
            check_stored(value, key=f"{key}.{name}")
    return None


def _texts(node: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every text, keys included, and where it stands."""
    if isinstance(node, str):
        yield path, node
    for key, value in node.items() if isinstance(node, dict) else ():
        yield from _texts(str(key), path)
        yield from _texts(value, f"{path}.{key}" if path else str(key))
    for index, value in enumerate(node if isinstance(node, list) else ()):
        yield from _texts(value, f"{path}[{index}]")


_ABSENT = object()
# What a config of before may lack, as a run without it is configured.
_DEFAULTS: dict[str, Any] = {
    **dict.fromkeys(("callback", "condition", "note", "space", "stages")), "freeze": [], "judges": "required",
    "channels": 3, "in_space": [],
}  # fmt: skip
