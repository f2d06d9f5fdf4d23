"""Why Hydra refuses a word of the command line, in the user's words and with the fix."""

import re
import shlex
from collections.abc import Sequence
from typing import Any

from hydra import compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from imtok.hints import Hints
from imtok.overrides import quoted

SEVERAL = ("logger", "callback", "measure")  # groups of which several options are taken at once


def compose_or_explain(command: str, overrides: Sequence[str], hints: Hints) -> tuple[DictConfig, list[str]]:
    """Compose; where that fails, leave out the overrides that fail and say why of each.

    Args:
        command: Such as "train".
        overrides: Words of the command line.
        hints: Of that command.

    Returns:
        The config without what fails, and a line for each word that does.
    """
    lists = {override: line for override in overrides if (line := _takes_one(override, hints))}
    if lists:  # which Hydra would merge without a word
        config, others = compose_or_explain(command, [one for one in overrides if one not in lists], hints)
        return config, [*lists.values(), *others]
    try:
        return compose(command, overrides=list(overrides)), []
    except _REFUSALS:
        pass
    words, problems = _joined(overrides)
    joined = set(words) - set(overrides)  # what is wrong with these is said
    accepted = list[str]()
    for override in sorted(words, key=lambda override: _rank(override, hints)):
        try:
            compose(command, overrides=[*accepted, override])
            accepted.append(override)
        except _REFUSALS as error:
            before = words[max(words.index(override) - 1, 0)]
            if override not in joined:
                problems.append(_explain(override, error, compose(command, overrides=accepted), hints, before))
    return compose(command, overrides=accepted), problems


def _takes_one(override: str, hints: Hints) -> str:
    """What is wrong with a list of options where one is taken; empty = nothing."""
    key, _, value = override.lstrip("+").partition("=")
    if key not in hints.groups or key in SEVERAL or not value.startswith("["):
        return ""
    return f"{key}={value}: takes one option and no list{hints.option(key, value.strip('[]'), hints.groups[key])}"


def is_read(override: str) -> bool:
    """Whether Hydra can read a word at all, whatever it means."""
    try:
        OverridesParser.create().parse_override(override)
    except HydraException:
        return False
    return True


def _joined(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words with those put together that the shell has parted at spaces, and a line for each of these."""
    words, problems, left = list[str](), list[str](), list(overrides)
    while left:
        parts = [left.pop(0)]
        while left and _goes_on(parts, left[0]):
            parts.append(left.pop(0))
        typed = " ".join(parts)
        key, _, value = typed.partition("=")
        around = bool(re.search(r"\S\s+=|^[^=]*=\s", typed)) and (len(parts) > 1 or key.strip() != key)
        meant = f"{key.strip()}={value.strip()}" if around else typed
        if len(parts) > 1 or around:
            meant = re.sub(r"([\[{,:])\s+|\s+(?=[\]},])", r"\1", meant)
            where = " around =" if around else ", at which the shell parts words"
            problems.append(f"{typed}: write KEY=VALUE without spaces{where}: {shlex.quote(meant)}")
        words.append(meant)
    return words, problems


def _goes_on(parts: Sequence[str], following: str) -> bool:
    """Whether a word belongs to the parts of one before it."""
    typed = " ".join(parts)
    if following == "=" or (following.startswith("=") and "=" not in typed):
        return "=" not in typed
    if "=" in following:
        return False
    key, equal, value = typed.partition("=")
    open_brackets = sum(value.count(letter) for letter in "[{(") > sum(value.count(letter) for letter in "]})")
    return bool(equal and key) and (not value.strip() or value.endswith(",") or open_brackets)


# ValueError: a group that is set to null; AssertionError: a key below a value
_REFUSALS = (HydraException, OmegaConfBaseException, ValueError, AssertionError)


def _rank(override: str, hints: Hints) -> int:
    """Where options are found comes first, then which are taken."""
    key = override.split("=")[0]
    return 0 if key.startswith("hydra.") else 1 if key in hints.groups else 2


def _explain(override: str, error: Exception, config: DictConfig, hints: Hints, before: str) -> str:
    key, separator, value = override.lstrip("+~").partition("=")
    text = str(error)
    # The word itself is odd.
    if not override.strip():
        return f"{override!r}: an empty word; leave it out"
    if override[0] in _DASHES:
        meant = re.sub(rf"^[{_DASHES}]+", lambda dashes: "-" * len(dashes[0]), override)
        return f"{override}: its dash is not the one that flags begin with; write {meant}"
    if not key or (not separator and not override.startswith("~")):
        return f"{override}: not an override; write KEY=VALUE{hints.word(override, before, config)}"
    if key in hints.groups and "," in value and not value.startswith("["):
        return f"{key}: several options make a sweep, which takes -m"
    # No such option, or no such key.
    absent = re.search(r"Could not (?:find|load) '(\w+)/(\S+)'", text)
    if key in SEVERAL and absent and absent[1] == key and (value.startswith("[") or key == "measure"):
        options = re.findall(r"^\t(\S+)$", text, flags=re.MULTILINE) or hints.groups[key]
        name = "metrics" if key == "measure" else key
        return f"{name}: there is no {absent[2]}{hints.option(key, absent[2], options)}"
    if not is_read(override):
        return f"{key}: {_unreadable(key, value)}"
    if "Could not find" in text and "Available options" in text:
        options = re.findall(r"^\t(\S+)$", text, flags=re.MULTILINE)
        return f"{key}={value}: no such option{hints.option(key, value.strip(chr(39)), options)}"
    inner = re.search(r"In '(.+?)': .*\nKey '(.+?)' (?:is )?not in .*\n\s*full_key: (\S+)", text)
    if inner:
        return f"{inner[3]} (in {inner[1]}): no such key{hints.key(inner[3], config)}"
    if override.startswith("+") and key in hints.groups:
        return f"{override}: {key} is chosen already; write {key}={value}, without +"
    if text.startswith("In '") or "Multiple values for" in text:  # of a YAML file of the user's own
        return f"{key}={value}: {text.splitlines()[0].replace('override ', 'override /')}"
    *parents, name = key.split(".")
    node = OmegaConf.select(config, ".".join(parents)) if parents else config
    keys = [str(known) for known in node] if OmegaConf.is_dict(node) else []  # `in` does not find what is ???
    if not OmegaConf.is_dict(node) and node is not None:
        return f"{key}: no such key; {'.'.join(parents)} is a value and no section"
    if name not in keys:
        return f"{key}: no such key{hints.key(key, config)}"
    if key in hints.groups:
        return f"{key}={value}: no such option{hints.option(key, value, hints.groups[key])}"
    if "An item is already at" in text:
        return f"{key}: there already; write {shlex.quote(f'{key}={value}')}, without +"
    # The key is there, and the value does not fit.
    current: Any = None if OmegaConf.is_missing(node, name) else OmegaConf.select(config, key)
    inner = re.search(r"Key '.+?' not in .*\n\s*full_key: (\S+)", str(error.__cause__))
    if inner:
        return f"{inner[1]}: no such key{hints.key(inner[1], config)}"
    if OmegaConf.is_dict(current):
        some = ", ".join(f"{key}.{known}" for known in list(current)[:3])
        return f"{key}: a section, not a value; set its keys, such as {some}"
    cause = (error.__cause__ or error) if not text or "Error merging override" in text else error
    if "Ambiguous value" in str(cause) and isinstance(current, (int, float, str)):
        return f"{key}: several values make a sweep, which takes -m"
    wants_list = OmegaConf.is_list(current) or "is not a ListConfig" in str(cause)
    if (wants_list and not value.startswith(("[", "{"))) or "Ambiguous value" in str(cause):
        return f"{key}: a list takes brackets; write {key}=[{value}]"
    return f"{key}: {of_type(key, str(cause)) or (str(cause).splitlines() or [type(cause).__name__])[0]}"


_DASHES = "\N{MINUS SIGN}\N{EN DASH}\N{EM DASH}\N{HORIZONTAL BAR}\N{HYPHEN}\N{NON-BREAKING HYPHEN}\N{FIGURE DASH}"
_TYPES = {"Integer": "a whole number", "Float": "a number", "bool": "true or false"}


def _unreadable(key: str, value: str) -> str:
    if value.count("${") > value.count("}"):
        return f"{value} lacks a }} that ends ${{"
    whole = shlex.quote(f"{key}={quoted(value)}")
    return f"{value} cannot be read; end every bracket, brace and quote, or give it as a text: {whole}"


def of_type(key: str, text: str) -> str:
    """What OmegaConf says of a value of a wrong type, in words; "" if it says something else."""
    if "is not Optional" in text:
        return "must have a value, got null"
    if "does not support deletion" in text:
        return "must not be taken out, since the command reads it; give another value"
    truth = re.match(r"Value '(.*)' is not a valid (bool)", text, re.DOTALL)
    found = truth or re.match(r"Value '(.*)' of type '\w+' could not be converted to (\w+)", text, re.DOTALL)
    if found is None or found[2] not in _TYPES:
        return ""
    value = found[1].lower() if found[1] in ("True", "False") else found[1]
    hyphens = re.sub(rf"[{_DASHES}]", "-", value)
    try:
        number = float(hyphens)
        meant = f"{number:.0f}" if found[2] == "Integer" and number.is_integer() else hyphens
        fix = f"; write {key}={meant}" if meant != value else ""
    except ValueError:
        fix = ""
    shown = value if value.isprintable() else repr(value)
    return f"must be {_TYPES[found[2]]}, got {shown}{fix}"
