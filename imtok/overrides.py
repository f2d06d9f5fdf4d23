"""Keeps paths as a user typed them, and resolves ``~`` and the environment before a config is stored."""

import logging
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from imtok.errors import InputError
from imtok.plain import short_words

log = logging.getLogger(__name__)

# Last names of the keys that hold paths: their values stay as they are typed, and may name ~ and the environment.
PATHS = frozenset(
    {
        "path", "val_path", "out", "tokenizer", "ckpt", "init_from", "ids", "store", "val", "generator", "images",
        "reference", "weights", "index", "cache", "captions", "backbone", "dino", "report", "sources", "places",
    }
)  # fmt: skip
_TEXTS = PATHS | {"name", "license"}
_ENVIRONMENT = r"\$\{\s*oc\.env\s*:\s*(\w*)"


def as_typed(arguments: Sequence[str], lists: Sequence[str] = ()) -> list[str]:
    """A command line in which Hydra reads each path as it was typed: quoted for Hydra where that is needed.

    Lists ``[a,b]``, dicts ``{a:1}``, quoted values, ``null``, interpolations and, with ``-m``, sweeps mean what they
    mean to Hydra.

    Args:
        arguments: What follows the command.
        lists: Keys of paths that take lists too.

    Example:
        >>> as_typed(["data.path=C:/My Pictures (1)", "out=2020", "seed=3", "tokenizer=[a,b]"], ["tokenizer"])
        ["data.path='C:/My Pictures (1)'", "out='2020'", 'seed=3', 'tokenizer=[a,b]']
    """
    swept = any(argument in ("-m", "--multirun") for argument in arguments)
    return [_argument(argument, swept, lists) for argument in arguments]


def in_full(command: str, words: Sequence[str]) -> list[str]:
    """A command line with its short words (for measures, and for parts of a source of weights) as what they stand for.

    Example:
        >>> in_full("eval", ["metrics=[psnr,rfid]", "length_target=30", "n=5"])
        ['measure=[psnr,rfid]', 'measure.length.target=30', 'n=5']
        >>> in_full("train", ["init_from=runs/mine", "init_from.parts=[encoder]"])
        ['++init_from.path=runs/mine', '++init_from.parts=[encoder]']
    """
    words = _new_keys(words) if command in ("train", "eval") else words
    mine = short_words(command)
    parted = [(word, *word.partition("=")) for word in words]
    return [f"{mine[key]}={value}" if equal and key in mine else word for word, key, equal, value in parted]


def typed_keys(overrides: Sequence[str]) -> set[str]:
    """The keys that the command line sets itself, those in a dict included."""
    typed = set[str]()
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        typed |= {key, *(f"{key}.{name}" for name in re.findall(r"(\w+)\s*:", value))}
    return typed


def _new_keys(words: Sequence[str]) -> list[str]:
    """Words for keys that no file has: of any kind of data, of a stage, and ``init_from`` as a section of parts."""
    words = [
        re.sub(r"^\+*(data\.(?:augment|buckets|boxes)|space\.cache|stages\.[\w.]+)=", r"++\1=", word) for word in words
    ]
    if not any(word.lstrip("+").startswith(("init_from.parts=", "init_from.path=")) for word in words):
        return words
    key = re.compile(r"^\+*init_from(?:\.(path|parts))?=")
    return [key.sub(lambda found: f"++init_from.{found[1] or 'path'}=", word) for word in words]


def quoted(text: str) -> str:
    """A text in single quotes, as Hydra reads it back."""
    return QuotedString(text, Quote.single).with_quotes()


def check_repeats(arguments: Sequence[str]) -> None:
    """Refuse a path of data that is given twice in a row, because the shell has expanded its braces.

    Raises:
        InputError: If there is one.
    """
    for before, after in pairwise(arguments):
        (first, _, one), (second, _, other) = before.partition("="), after.partition("=")
        if first == second and first.rpartition(".")[2] in ("path", "val_path") and one != other:
            raise InputError(
                f"{first} is given twice, {one} and {other}; if the shell expanded braces, quote the "
                f"argument: '{first}=...'"
            )


def settle(config: DictConfig, job: int | None = None) -> list[str]:
    """Replace ``~``, ``${oc.env:NAME}`` and the number of a sweep's job in the paths of a config by their values.

    Args:
        config: Changed in place.
        job: The job's number; None = no sweep. It becomes a folder below ``out``, unless ``out`` names its job itself.

    Returns:
        Why paths cannot be read, one line each.
    """
    problems, named = list[str](), dict(texts(OmegaConf.to_container(config)))
    for key, text in named.items():
        if not _holds_path(key):
            continue
        if not text.strip():
            problems.append(f"{key} must be a path, got an empty one")
            continue
        try:
            value = _local(key, text, config)
        except InputError as error:
            problems.append(str(error))
            continue
        if value != text:
            OmegaConf.update(config, re.sub(r"\[(\d+)\]", r".\1", key), value)
    if job is not None and named.get("out", "???") != "???" and "hydra:job." not in named["out"]:
        config.out = str(Path(config.out) / str(job))
    return problems


def from_environment(config: DictConfig) -> list[str]:
    """Keys of paths that name the environment, each with the variable, for the log."""
    found = ((key, re.search(_ENVIRONMENT, text)) for key, text in texts(OmegaConf.to_container(config)))
    return [f"{key} is taken from the environment ({match[1]})" for key, match in found if match and _holds_path(key)]


def texts(node: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every text of plain values, after its key."""
    if isinstance(node, str):
        yield path, node
    for key, value in node.items() if isinstance(node, dict) else ():
        yield from texts(value, f"{path}.{key}" if path else str(key))
    for index, value in enumerate(node if isinstance(node, list) else ()):
        yield from texts(value, f"{path}[{index}]")


def _holds_path(key: str) -> bool:
    return re.sub(r"(\[\d+\])+$", "", key).rpartition(".")[2] in PATHS


def _local(key: str, text: str, config: DictConfig) -> str:
    if re.search(_ENVIRONMENT, text):
        try:
            text = str(OmegaConf.select(config, re.sub(r"\[(\d+)\]", r".\1", key)))
        except OmegaConfBaseException as error:
            raise InputError(f"{key}: {str(error).splitlines()[0]}") from None
        if "://" in text:
            raise InputError(
                f"{key}: an address must not read the environment, since configs are written to the run folder, and "
                "addresses may hold passwords; write the address out"
            )
    left = re.match(r"\$(\w+)", text)
    if left and left[1] in os.environ and not _exists(text):
        meant = f"{key}=${{oc.env:{left[1]}}}{text[left.end() :]}"
        raise InputError(
            f"{key}: {left[0]} is as it was typed, since the shell puts nothing in its place between single quotes; "
            f"write {shlex.quote(meant)}, or {shlex.quote(f'{key}=./{text}')} for a folder of that name"
        )
    first, slash, rest = text.partition("/")
    try:
        return str(Path(first).expanduser()) + slash + rest if first.startswith("~") else text
    except RuntimeError:
        raise InputError(
            f"{key}: there is no user {first[1:]}; for a folder of that name give {key}=./{text}"
        ) from None


def _argument(argument: str, swept: bool, lists: Sequence[str]) -> str:
    key, equal, value = argument.partition("=")
    plain = key.lstrip("+~")
    if not equal or not value or not re.fullmatch(r"[\w./@$-]+", plain) or argument.startswith("-"):
        return argument
    name = plain.rpartition(".")[2]
    if name in _TEXTS:
        asked = plain in lists and not swept and not _exists(value)
        if asked and isinstance((_parsed(value) or [None])[0], ChoiceSweep):
            return argument  # whether a list was meant is asked later
        return f"{key}={_path(value, swept, plain in lists or '.' in plain)}"
    if _parsed(value) is not None or "${" in value:
        return argument
    if value.startswith("[") and value.endswith("]"):
        return f"{key}=[{','.join(map(_text, _split(value[1:-1])))}]"
    # what the shell has parted at a space is named as it was typed
    return argument if value[0] in "[{'\"" or value[-1] == "," else f"{key}={_parts(value, swept)}"


def _path(text: str, swept: bool, lists: bool) -> str:
    """What Hydra must be given to read a path as it was typed.

    Args:
        text: As it was typed.
        swept: Whether commas and functions make a sweep.
        lists: Whether brackets and braces may make a list or a dict.
    """
    parsed = _parsed(text)
    value = parsed[0] if parsed else None
    if isinstance(value, QuotedString) or (parsed and value is None):
        return text
    if value == text:
        return text
    if _exists(text) and not swept:
        return quoted(text)
    if isinstance(value, (list, dict)) or (text[0] == "[" and text[-1] == "]"):
        if not lists:
            return quoted(text)
        return f"[{','.join(map(_text, _split(text[1:-1])))}]" if text[0] == "[" else text
    if parsed and swept and not isinstance(value, (str, int, float, ChoiceSweep)):
        return text
    return _parts(text, swept)


def _exists(text: str) -> bool:
    try:
        return Path(text).exists()
    except (OSError, ValueError):  # too long, or a null byte
        return False


def _parts(text: str, swept: bool) -> str:
    return ",".join(map(_text, _split(text))) if swept else _text(text)


def _text(text: str) -> str:
    parsed = _parsed(text)
    kept = parsed and (isinstance(parsed[0], (QuotedString, dict, list)) or parsed[0] is None)
    return text if kept or (parsed and parsed[0] == text) else quoted(text)


def _parsed(text: str) -> tuple[Any] | None:
    """What Hydra makes of a value; None if it cannot read it."""
    try:
        return (OverridesParser.create().parse_override(f"key={text}")._value,)
    except HydraException:
        return None


def _split(text: str) -> list[str]:
    """The parts between commas that stand in no brackets and no quotes."""
    parts, depth, quote = [""], 0, ""
    for index, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote and text[index - 1] != "\\" else quote
        elif letter in "'\"" and not parts[-1].strip():
            quote = letter
        else:
            depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth <= 0 and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]
